//! Our timestamps as s3s wants them.

use std::time::{Duration, UNIX_EPOCH};

use s3s::dto;
use units::Timestamp;

/// Times before 1970 become 1970.
pub(crate) fn http(at: Timestamp) -> dto::Timestamp {
    let since_epoch = Duration::from_millis(u64::try_from(at.unix_ms()).unwrap_or(0));
    dto::Timestamp::from(UNIX_EPOCH + since_epoch)
}
