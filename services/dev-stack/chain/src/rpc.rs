//! The envelope: JSON-RPC 1.0 as the daemon speaks it, whatever version a client claims.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::RpcError;

/// What one HTTP request asks for.
pub(crate) enum Incoming {
    Single(Item),
    Batch(Vec<Item>),
}

/// One member of a batch, or the only one.
pub(crate) struct Item {
    /// Echoed as it came.
    pub(crate) id: Box<RawValue>,
    pub(crate) call: Result<Invocation, RpcError>,
}

pub(crate) struct Invocation {
    pub(crate) method: String,
    pub(crate) params: Vec<Box<RawValue>>,
}

impl Incoming {
    pub(crate) fn read(body: &[u8]) -> Result<Self, RpcError> {
        // Reading everything once finds what raw values would let pass, such as half a surrogate pair.
        let value: serde_json::Value = serde_json::from_slice(body).map_err(|_| RpcError::parse())?;
        let parse = |_| RpcError::parse();
        match value {
            serde_json::Value::Object(_) => Ok(Self::Single(Item::read(
                serde_json::from_slice(body).map_err(parse)?,
            ))),
            serde_json::Value::Array(_) => {
                let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(parse)?;
                Ok(Self::Batch(items.into_iter().map(Item::read).collect()))
            }
            _ => Err(RpcError::not_an_object()),
        }
    }
}

impl Incoming {
    /// The method of the only or the first call.
    pub(crate) fn first_method(&self) -> Option<&str> {
        let first = match self {
            Self::Single(item) => Some(item),
            Self::Batch(items) => items.first(),
        };
        first
            .and_then(|item| item.call.as_ref().ok())
            .map(|call| call.method.as_str())
    }
}

impl Item {
    fn read(text: &RawValue) -> Self {
        match serde_json::from_str::<Members>(text.get()) {
            Ok(members) => Self {
                id: members.id.map_or_else(null, RawValue::to_owned),
                call: members.call(),
            },
            Err(_) => Self {
                id: null(),
                call: Err(RpcError::invalid_request("Invalid Request object")),
            },
        }
    }
}

/// The members of a request that matter. Of a member that stands there twice, the first counts.
#[derive(Default)]
struct Members<'a> {
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
}

impl Members<'_> {
    fn call(&self) -> Result<Invocation, RpcError> {
        let method = self.method.map_or("null", RawValue::get);
        if method == "null" {
            return Err(RpcError::invalid_request("Missing method"));
        }
        let method =
            serde_json::from_str(method).map_err(|_| RpcError::invalid_request("Method must be a string"))?;
        let params: Option<Vec<Box<RawValue>>> =
            serde_json::from_str(self.params.map_or("null", RawValue::get))
                .map_err(|_| RpcError::invalid_request("Params must be an array"))?;
        Ok(Invocation {
            method,
            params: params.unwrap_or_default(),
        })
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FirstOfEach;

        impl<'de> Visitor<'de> for FirstOfEach {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a request object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Members::default();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    match name.as_str() {
                        "id" => members.id.get_or_insert(value),
                        "method" => members.method.get_or_insert(value),
                        "params" => members.params.get_or_insert(value),
                        _ => continue,
                    };
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(FirstOfEach)
    }
}

pub(crate) fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// One reply, without the newline that ends a body. There is never a `jsonrpc` member, and always an `error`.
pub(crate) fn reply(id: &RawValue, result: &Result<Box<RawValue>, RpcError>) -> String {
    let (result, error) = match result {
        Ok(result) => (result.get(), "null".to_owned()),
        Err(error) => ("null", crate::json::raw(error).get().to_owned()),
    };
    format!(r#"{{"result":{result},"error":{error},"id":{id}}}"#)
}
