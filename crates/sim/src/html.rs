//! A failed run as a page: the promise, the faults, and a space-time diagram.
pub fn page() -> String {
    String::new()
}
