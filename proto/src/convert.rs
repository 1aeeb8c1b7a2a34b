//! Generated messages to `units` types and back, once.

use std::str::FromStr;

use units::{Billing, CpuTime, Grant, OnShortage, Policy, Restriction, Standing};

use crate::credit::v1 as credit;

/// A message field that does not hold what it must.
#[derive(Debug, thiserror::Error)]
#[error("field `{field}`: {problem}")]
pub struct InvalidField {
    pub field: &'static str,
    pub problem: String,
}

impl InvalidField {
    pub fn new(field: &'static str, problem: impl ToString) -> Self {
        Self {
            field,
            problem: problem.to_string(),
        }
    }
}

impl From<InvalidField> for tonic::Status {
    fn from(err: InvalidField) -> Self {
        Self::invalid_argument(err.to_string())
    }
}

/// Parses a text field, such as a name or an id.
pub fn parse<T: FromStr<Err: ToString>>(field: &'static str, text: &str) -> Result<T, InvalidField> {
    text.parse().map_err(|err: T::Err| InvalidField::new(field, err))
}

/// Conversions between a generated enum and the enum of `units` with the same variants.
macro_rules! same_variants {
    ($field:literal, $generated:path, $unit:path { $($variant:ident),+ }) => {
        impl From<$unit> for $generated {
            fn from(unit: $unit) -> Self {
                use $unit as Unit;
                match unit { $(Unit::$variant => Self::$variant),+ }
            }
        }

        impl TryFrom<$generated> for $unit {
            type Error = InvalidField;

            fn try_from(generated: $generated) -> Result<Self, InvalidField> {
                use $generated as Generated;
                match generated {
                    $(Generated::$variant => Ok(Self::$variant),)+
                    Generated::Unspecified => Err(InvalidField::new($field, "is not set")),
                }
            }
        }
    };
}

same_variants!(
    "standing",
    credit::Standing,
    Standing {
        Good,
        Low,
        InDebt,
        Exhausted
    }
);
same_variants!(
    "restriction",
    credit::Restriction,
    Restriction { None, Throttle, Stop }
);
same_variants!("billing", credit::Billing, Billing { Used, Current });
same_variants!(
    "on_shortage",
    credit::OnShortage,
    OnShortage {
        Together,
        NewestFirst
    }
);
same_variants!("policy", credit::Policy, Policy { Greedy, Conservative });

impl From<Grant> for credit::Grant {
    fn from(grant: Grant) -> Self {
        Self {
            throttle_at_us: grant.throttle_at.micros(),
            stop_at_us: grant.stop_at.micros(),
        }
    }
}

impl From<credit::Grant> for Grant {
    fn from(grant: credit::Grant) -> Self {
        Self {
            throttle_at: CpuTime::from_micros(grant.throttle_at_us),
            stop_at: CpuTime::from_micros(grant.stop_at_us),
        }
    }
}
