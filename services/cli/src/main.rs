//! The `gridfaas` command.

fn main() {}
