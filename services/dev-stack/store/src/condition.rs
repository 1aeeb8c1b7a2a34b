//! Conditional requests: may this go ahead, given the object that is there now? Pure.

use s3s::dto::{ETagCondition, Timestamp as HttpTime};
use units::Timestamp;

use crate::error::{Error, Result};
use crate::time;

/// Conditions on a read, or on the source of a copy.
#[derive(Default)]
pub(crate) struct ReadCondition {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_modified_since: Option<HttpTime>,
    pub(crate) if_unmodified_since: Option<HttpTime>,
}

impl ReadCondition {
    /// Follows the order of RFC 9110 §13.2.2: an ETag outweighs the date beside it.
    pub(crate) fn check(&self, etag: &str, modified_at: Timestamp) -> Result<()> {
        // A date in a header has whole seconds only.
        let modified_at = time::http(Timestamp::from_unix_ms(
            modified_at.unix_ms().div_euclid(1000) * 1000,
        ));
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(wanted), _) if !matches(wanted, etag) => return Err(Error::PreconditionFailed("If-Match")),
            (None, Some(since)) if modified_at > *since => {
                return Err(Error::PreconditionFailed("If-Unmodified-Since"));
            }
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(unwanted), _) if matches(unwanted, etag) => Err(Error::NotModified {
                etag: etag.to_owned(),
            }),
            (None, Some(since)) if modified_at <= *since => Err(Error::NotModified {
                etag: etag.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// As `check`, for the source of a copy, where "not modified" is a failure as well.
    pub(crate) fn check_source(&self, etag: &str, modified_at: Timestamp) -> Result<()> {
        self.check(etag, modified_at).map_err(|err| match err {
            Error::NotModified { .. } => Error::PreconditionFailed("x-amz-copy-source-if-none-match"),
            err => err,
        })
    }
}

/// Conditions on the object that a write replaces or removes.
#[derive(Clone, Default)]
pub(crate) struct WriteCondition {
    pub(crate) if_match: Option<ETagCondition>,
    pub(crate) if_none_match: Option<ETagCondition>,
}

impl WriteCondition {
    /// `current` is the ETag of the object under the key, if there is one.
    pub(crate) fn check(&self, current: Option<&str>) -> Result<()> {
        if let Some(wanted) = &self.if_match
            && !current.is_some_and(|etag| matches(wanted, etag))
        {
            return Err(Error::PreconditionFailed("If-Match"));
        }
        if let (Some(unwanted), Some(etag)) = (&self.if_none_match, current)
            && matches(unwanted, etag)
        {
            return Err(Error::PreconditionFailed("If-None-Match"));
        }
        Ok(())
    }
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.value() == etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODIFIED: Timestamp = Timestamp::from_unix_ms(10_500);

    fn etag(value: &str) -> Option<ETagCondition> {
        Some(value.parse().unwrap())
    }

    fn at(seconds: i64) -> Option<HttpTime> {
        Some(time::http(Timestamp::from_unix_ms(seconds * 1000)))
    }

    fn outcome(condition: &ReadCondition) -> u16 {
        match condition.check("a", MODIFIED) {
            Ok(()) => 200,
            Err(Error::NotModified { .. }) => 304,
            Err(Error::PreconditionFailed(_)) => 412,
            Err(err) => panic!("{err}"),
        }
    }

    #[test]
    fn reads_follow_rfc_9110() {
        let none = ReadCondition::default;
        let table = [
            (none(), 200),
            (
                ReadCondition {
                    if_match: etag("\"a\""),
                    ..none()
                },
                200,
            ),
            (
                ReadCondition {
                    if_match: etag("*"),
                    ..none()
                },
                200,
            ),
            (
                ReadCondition {
                    if_match: etag("\"b\""),
                    ..none()
                },
                412,
            ),
            (
                ReadCondition {
                    if_none_match: etag("\"a\""),
                    ..none()
                },
                304,
            ),
            (
                ReadCondition {
                    if_none_match: etag("\"b\""),
                    ..none()
                },
                200,
            ),
            (
                ReadCondition {
                    if_modified_since: at(10),
                    ..none()
                },
                304,
            ),
            (
                ReadCondition {
                    if_modified_since: at(9),
                    ..none()
                },
                200,
            ),
            (
                ReadCondition {
                    if_unmodified_since: at(10),
                    ..none()
                },
                200,
            ),
            (
                ReadCondition {
                    if_unmodified_since: at(9),
                    ..none()
                },
                412,
            ),
            (
                ReadCondition {
                    if_match: etag("\"a\""),
                    if_unmodified_since: at(9),
                    ..none()
                },
                200,
            ),
            (
                ReadCondition {
                    if_none_match: etag("\"b\""),
                    if_modified_since: at(10),
                    ..none()
                },
                200,
            ),
        ];
        for (row, (condition, expected)) in table.iter().enumerate() {
            assert_eq!(outcome(condition), *expected, "row {row}");
        }
    }

    #[test]
    fn writes_go_ahead_only_on_the_object_they_expect() {
        let holds = |if_match: &str, if_none_match: &str, current| {
            let parse = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
            let condition = WriteCondition {
                if_match: parse(if_match),
                if_none_match: parse(if_none_match),
            };
            condition.check(current).is_ok()
        };
        assert!(holds("", "", None) && holds("", "", Some("a")));
        assert!(holds("", "*", None) && !holds("", "*", Some("a")));
        assert!(holds("\"a\"", "", Some("a")) && !holds("\"a\"", "", Some("b")) && !holds("\"a\"", "", None));
        assert!(holds("", "\"b\"", Some("a")) && !holds("", "\"a\"", Some("a")));
    }
}
