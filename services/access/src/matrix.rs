//! Who may call what: one row for each gRPC method, and nothing that has no row.
//!
//! `docs/access.md` shows the same table; a test holds the two, and the protos, together.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::caller::Role::{self, *};

/// How far a role gets with a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every object.
    All,
    /// Those that belong to the caller; the handler tells which.
    Own,
}

/// Who may call one method.
#[derive(Debug)]
pub struct Row {
    pub service: &'static str,
    pub method: &'static str,
    /// As it stands in a request: `/package.Service/Method`.
    pub path: &'static str,
    /// Roles that reach every object.
    pub all: &'static [Role],
    /// Roles that reach their own.
    pub own: &'static [Role],
}

impl Row {
    /// `None`: not at all.
    pub fn scope(&self, role: Role) -> Option<Scope> {
        if self.all.contains(&role) {
            Some(Scope::All)
        } else {
            self.own.contains(&role).then_some(Scope::Own)
        }
    }
}

macro_rules! matrix {
    ($($service:literal { $($method:ident: [$($all:ident),*] own [$($own:ident),*];)* })*) => {
        &[$($(Row {
            service: $service,
            method: stringify!($method),
            path: concat!("/", $service, "/", stringify!($method)),
            all: &[$($all),*],
            own: &[$($own),*],
        }),*),*]
    };
}

pub const MATRIX: &[Row] = matrix! {
    "gridfaas.credit.v1.AccountService" {
        CreateUser: [Operator] own [];
        GetUser: [Operator, Auditor, Node] own [User];
        ListUsers: [Operator, Auditor] own [];
        UpdateUser: [Operator] own [];
        CreateFunction: [Operator] own [User];
        UpdateFunction: [Operator] own [];
        DeleteFunction: [Operator] own [User];
        ListFunctions: [Operator, Auditor, Node] own [User];
        ListTransfers: [Operator, Auditor] own [User];
        ListSessions: [Operator, Auditor] own [User];
        Quote: [Operator, Auditor, Node] own [User];
        Withdraw: [Operator] own [User];
        GetWithdrawal: [Operator, Auditor] own [User];
        ListWithdrawals: [Operator, Auditor] own [User];
        Audit: [Operator, Auditor] own [];
    }
    "gridfaas.credit.v1.LedgerService" {
        ReadTransfers: [Operator, Auditor] own [User];
        GetStatement: [Operator, Auditor] own [User];
        Backup: [Operator] own [];
    }
    "gridfaas.credit.v1.SessionService" {
        OpenSession: [] own [Node];
        ReportUsage: [] own [Node];
        CloseSession: [] own [Node];
        Watch: [] own [Node];
    }
    "gridfaas.credit.v1.AccessService" {
        CreateToken: [Operator] own [];
        ListTokens: [Operator, Auditor] own [User];
        RevokeToken: [Operator] own [User];
        IdentifyToken: [Node] own [];
        GetS3Credentials: [Operator] own [User];
        ResolveS3Key: [Node] own [];
    }
    "gridfaas.container.v1.ContainerService" {
        ListTasks: [Operator, Auditor] own [User];
        ListRecords: [Operator, Auditor, User, Node, Anyone] own [];
        ListContainers: [Operator, Auditor] own [User];
        ReadLog: [Operator] own [User];
        Invoke: [Operator] own [User];
        Notify: [Operator] own [User];
        CancelTask: [Operator] own [User];
        GetNode: [Operator, Auditor, User, Node, Anyone] own [];
        ListQueues: [Operator, Auditor] own [User];
        GetReceipt: [Operator, Auditor] own [User];
        ReserveCapacity: [Operator] own [User];
        ReleaseReservation: [Operator] own [User];
        ListReservations: [Operator, Auditor] own [User];
        ListSettings: [Operator, Auditor] own [];
        SetSetting: [Operator] own [];
    }
    // Answers whether the service serves, and, where it is turned on, what its protos are.
    "grpc.health.v1.Health" {
        Check: [Operator, Auditor, User, Node, Anyone] own [];
        Watch: [Operator, Auditor, User, Node, Anyone] own [];
    }
    "grpc.reflection.v1.ServerReflection" {
        ServerReflectionInfo: [Operator, Auditor, User, Node, Anyone] own [];
    }
};

/// The row of a request's path; `None` for a method that nobody may call.
pub fn row(path: &str) -> Option<&'static Row> {
    static BY_PATH: LazyLock<HashMap<&str, &Row>> =
        LazyLock::new(|| MATRIX.iter().map(|row| (row.path, row)).collect());
    BY_PATH.get(path).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    fn is_ours(row: &&Row) -> bool {
        row.service.starts_with("gridfaas.")
    }

    /// Fails when a method is added, until somebody has decided who may call it.
    #[test]
    fn every_method_of_the_protos_has_one_row() {
        let protos = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let mut methods: Vec<String> = Vec::new();
        for file in &protos.file {
            for service in &file.service {
                let method = |method: &prost_types::MethodDescriptorProto| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                };
                methods.extend(service.method.iter().map(method));
            }
        }
        let mut rows: Vec<&str> = MATRIX.iter().filter(is_ours).map(|row| row.path).collect();
        methods.sort_unstable();
        rows.sort_unstable();
        assert_eq!(rows, methods);
    }

    #[test]
    fn a_role_has_one_scope_and_strangers_get_nothing_that_is_anybodys() {
        for row in MATRIX {
            for role in Role::ALL {
                let listed = row.all.iter().chain(row.own).filter(|listed| **listed == role);
                assert!(listed.count() <= 1, "{role} twice in {}", row.path);
            }
            assert!(!row.own.contains(&Anyone), "{}", row.path);
        }
        let open: Vec<&str> = MATRIX
            .iter()
            .filter(is_ours)
            .filter(|row| row.scope(Anyone).is_some())
            .map(|row| row.method)
            .collect();
        assert_eq!(open, ["ListRecords", "GetNode"]);
    }

    #[test]
    fn the_page_for_people_shows_this_table() {
        let mut table = String::from("| Method |");
        for role in Role::ALL {
            table += &format!(" {role} |");
        }
        table += &format!("\n|---|{}\n", "---|".repeat(Role::ALL.len()));
        for row in MATRIX.iter().filter(is_ours) {
            let service = row.service.rsplit('.').next().unwrap();
            table += &format!("| `{service}/{}` |", row.method);
            for role in Role::ALL {
                table += match row.scope(role) {
                    Some(Scope::All) => " all |",
                    Some(Scope::Own) => " own |",
                    None => " – |",
                };
            }
            table += "\n";
        }
        let page = include_str!("../../../docs/access.md");
        assert!(page.contains(&table), "docs/access.md has to show:\n{table}");
    }
}
