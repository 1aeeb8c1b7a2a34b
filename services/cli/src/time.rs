//! Wall time as people say it.

use std::str::FromStr;

use anyhow::Context as _;

/// A time that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(jiff::Timestamp);

impl Moment {
    pub(crate) fn unix_ms(self) -> i64 {
        self.0.as_millisecond()
    }
}

impl FromStr for Moment {
    type Err = anyhow::Error;

    /// Reads a time with its offset, or a date, which begins at midnight in UTC.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Ok(time) = text.parse() {
            return Ok(Self(time));
        }
        let date: jiff::civil::Date = text.parse().ok().with_context(|| {
            format!("`{text}` is neither a date such as 2026-01-31 nor a time such as 2026-01-31T12:00:00Z")
        })?;
        Ok(Self(date.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::Rfc3339;

    #[test]
    fn dates_and_times_are_read_and_shown_in_utc() {
        for (text, shown) in [
            ("2026-01-31", "2026-01-31T00:00:00.000Z"),
            ("2026-01-31T12:00:00.25Z", "2026-01-31T12:00:00.250Z"),
            ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00.000Z"),
        ] {
            let moment: Moment = text.parse().unwrap();
            let shown_again = Rfc3339(units::Timestamp::from_unix_ms(moment.unix_ms())).to_string();
            assert_eq!(shown_again, shown);
        }
        assert!("yesterday".parse::<Moment>().is_err());
    }
}
