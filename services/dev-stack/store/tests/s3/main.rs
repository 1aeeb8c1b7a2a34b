//! The store as a client of the AWS SDK sees it.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test, as the test itself does"
)]

mod access;
mod buckets;
mod conditions;
mod durability;
mod events;
mod keys;
mod listing;
mod multipart;
mod objects;
mod support;
