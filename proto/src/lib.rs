//! The contract between the services, generated from the `.proto` files beside this crate, and its conversions to
//! `units`. Past a service's `api` module nobody sees a generated type.

pub mod credit {
    pub mod v1 {
        #![expect(clippy::all, clippy::allow_attributes, reason = "generated")]
        tonic::include_proto!("gridfaas.credit.v1");
    }
}

pub mod container {
    pub mod v1 {
        #![expect(clippy::all, clippy::allow_attributes, reason = "generated")]
        tonic::include_proto!("gridfaas.container.v1");
    }
}

mod convert;

pub use convert::{InvalidField, parse};

/// The descriptors of every service, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gridfaas.descriptors.bin"));
