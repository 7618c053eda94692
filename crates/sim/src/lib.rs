//! The simulator: workloads for simulated clients, and checkers of what those clients saw.

pub mod check;
pub mod load;
