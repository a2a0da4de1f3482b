//! How busy the machine may be.

/// The factor on every deadline.
pub(crate) fn slack() -> u32 {
    std::env::var("HOSTLER_TEST_SLACK")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5)
}
