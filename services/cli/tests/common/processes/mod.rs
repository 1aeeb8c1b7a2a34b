//! Services in processes of their own, and the network between them.

pub(crate) mod network;
pub(crate) mod roles;
