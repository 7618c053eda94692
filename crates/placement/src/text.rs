//! Figures as people read them.

use quorate_base::Millis;

/// Bytes with a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} bytes");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A time in seconds.
pub(crate) fn seconds(ms: Millis) -> String {
    if ms < 10_000 && !ms.is_multiple_of(1000) {
        return format!("{:.1} s", ms as f64 / 1000.0);
    }
    format!("{} s", ms / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units() {
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(seconds(1500), "1.5 s");
        assert_eq!(seconds(300_000), "300 s");
    }
}
