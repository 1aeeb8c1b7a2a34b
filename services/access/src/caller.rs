//! Who sent a request.

use std::fmt;

use serde::{Deserialize, Serialize};
use tonic::{Request, Status};
use units::{NodeId, UserName};

/// What a caller is to the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs the platform.
    Operator,
    /// Reads the books and what runs; changes nothing.
    Auditor,
    /// Owns functions and pays for them.
    User,
    /// A container-manager.
    Node,
    /// Nobody we know.
    Anyone,
}

impl Role {
    pub const ALL: [Self; 5] = [
        Self::Operator,
        Self::Auditor,
        Self::User,
        Self::Node,
        Self::Anyone,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::User => "user",
            Self::Node => "node",
            Self::Anyone => "anyone",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who sent a request, as the [layer](crate::AccessLayer) found out. Handlers ask it whose object they may touch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "role", content = "name", rename_all = "lowercase")]
pub enum Caller {
    Operator,
    Auditor,
    User(UserName),
    /// One node by its certificate; any node of this machine by the token that credit-manager leaves there.
    Node(Option<NodeId>),
    Anyone,
}

impl Caller {
    /// The sender of a request. Errors if the request came past the layer: nothing is allowed then.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>();
        caller
            .cloned()
            .ok_or_else(|| Status::internal("the request came past access control"))
    }

    pub const fn role(&self) -> Role {
        match self {
            Self::Operator => Role::Operator,
            Self::Auditor => Role::Auditor,
            Self::User(_) => Role::User,
            Self::Node(_) => Role::Node,
            Self::Anyone => Role::Anyone,
        }
    }

    /// Errors if the caller is bound to its own objects and this one belongs to another user.
    pub fn check_owner(&self, owner: &UserName) -> Result<(), Status> {
        match self {
            Self::User(own) if own != owner => Err(Status::permission_denied(format!(
                "that belongs to another user than {own}, whose token this is"
            ))),
            _ => Ok(()),
        }
    }

    /// The user whose part of a list this caller gets: a user its own, everybody else what was asked for, where `None`
    /// stands for all. Errors if a user asks for another's.
    pub fn narrow(&self, asked: Option<UserName>) -> Result<Option<UserName>, Status> {
        match (self, asked) {
            (Self::User(own), None) => Ok(Some(own.clone())),
            (_, Some(asked)) => self.check_owner(&asked).map(|()| Some(asked)),
            (_, None) => Ok(None),
        }
    }

    /// Whether the caller may speak for a node: with a certificate only for the one that it names.
    pub fn speaks_for(&self, node: &NodeId) -> bool {
        match self {
            Self::Node(own) => own.as_ref().is_none_or(|own| own == node),
            _ => false,
        }
    }

    /// Errors if the caller speaks for another node than its own.
    pub fn check_node(&self, node: &NodeId) -> Result<(), Status> {
        if self.speaks_for(node) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "the certificate shown is not that of node {node}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_user_reaches_what_is_its_own_and_others_what_they_ask_for() {
        let (alice, bob): (UserName, UserName) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let caller = Caller::User(alice.clone());
        assert!(caller.check_owner(&alice).is_ok());
        assert_eq!(
            caller.check_owner(&bob).unwrap_err().code(),
            Code::PermissionDenied
        );
        assert_eq!(caller.narrow(None).unwrap(), Some(alice.clone()));
        assert_eq!(caller.narrow(Some(alice.clone())).unwrap(), Some(alice));
        assert!(caller.narrow(Some(bob.clone())).is_err());
        for caller in [Caller::Operator, Caller::Auditor, Caller::Node(None)] {
            assert_eq!(caller.narrow(None).unwrap(), None);
            assert_eq!(caller.narrow(Some(bob.clone())).unwrap(), Some(bob.clone()));
        }
    }

    #[test]
    fn a_node_with_a_certificate_speaks_for_itself_only() {
        let (one, two): (NodeId, NodeId) = ("node-1".parse().unwrap(), "node-2".parse().unwrap());
        assert!(Caller::Node(Some(one.clone())).check_node(&one).is_ok());
        assert!(Caller::Node(Some(one)).check_node(&two).is_err());
        assert!(Caller::Node(None).check_node(&two).is_ok());
        assert!(Caller::Operator.check_node(&two).is_err());
    }

    #[test]
    fn a_request_that_came_past_the_layer_is_refused() {
        assert!(Caller::of(&Request::new(())).is_err());
    }
}
