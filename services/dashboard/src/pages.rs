//! What each page shows, as JSON.

use schema::{Session, Task, User};
use serde::Serialize;
use units::{Amount, FunctionName, Timestamp, UserName};

use crate::history::{Funds, FundsColumns, History, Subject, Work, WorkColumns};
use crate::look::{ContainerNow, FunctionNow, Look, Node};
use crate::services::Statement;

/// Rows of a page's tables, so that ten thousand users make no page of ten thousand rows.
const ROWS_MAX: usize = 200;

/// What a page is about.
#[derive(Clone, Debug)]
pub(crate) enum Page {
    Overview,
    User(UserName),
    Function(FunctionName),
    Node,
}

/// What a page shows of this moment.
#[derive(Serialize)]
pub(crate) struct Now<'a> {
    at_ms: Timestamp,
    /// What is not up to date, for people.
    unknown: Vec<String>,
    node: &'a Node,
    /// Of all of the page's work together; null while that is not known.
    work: Option<Work>,
    /// Of the page's user; null on other pages, and while that is not known.
    funds: Option<Funds>,
    /// The busiest first.
    users: Vec<&'a User>,
    users_total: usize,
    /// Of all users together, and not of those listed only.
    balance_total: Amount,
    functions: Vec<&'a FunctionNow>,
    functions_total: usize,
    containers: Vec<&'a ContainerNow>,
    containers_total: usize,
}

/// What the plots of a page begin with.
#[derive(Serialize)]
pub(crate) struct Before {
    work: WorkColumns,
    #[serde(skip_serializing_if = "Option::is_none")]
    funds: Option<FundsColumns>,
}

/// The records of a user.
#[derive(Serialize)]
pub(crate) struct UserRecords {
    /// The newest first.
    pub(crate) sessions: Vec<Session>,
    pub(crate) statement: Statement,
}

/// The records of a function on this node.
#[derive(Serialize)]
pub(crate) struct FunctionRecords {
    /// The newest first.
    pub(crate) tasks: Vec<Task>,
}

impl Page {
    fn subject(&self) -> Subject {
        match self {
            Self::Overview | Self::Node => Subject::Node,
            Self::User(name) => Subject::User(name.to_string()),
            Self::Function(name) => Subject::Function(name.to_string()),
        }
    }

    pub(crate) fn before(&self, history: &History) -> Before {
        Before {
            work: history.work(&self.subject()),
            funds: match self {
                Self::User(name) => Some(history.funds(name.as_str())),
                Self::Overview | Self::Function(_) | Self::Node => None,
            },
        }
    }

    pub(crate) fn now<'a>(&self, look: &'a Look) -> Now<'a> {
        let owner = |function: &FunctionName| {
            let mut functions = look.functions.iter();
            let found = functions.find(|now| now.function.name == function.as_str());
            found.map(|now| now.function.user.as_str())
        };
        let has_user = |user: &str| match self {
            Self::Overview => true,
            Self::User(name) => name.as_str() == user,
            Self::Function(name) => owner(name) == Some(user),
            Self::Node => false,
        };
        let has_function = |function: &str, user: &str| match self {
            Self::Overview => true,
            Self::User(name) => name.as_str() == user,
            Self::Function(name) => name.as_str() == function,
            Self::Node => false,
        };
        let has_container = |function: &str, user: &str| match self {
            Self::Node => true,
            _ => has_function(function, user),
        };
        let mut users: Vec<&User> = look.users.iter().filter(|user| has_user(&user.name)).collect();
        let mut functions: Vec<&FunctionNow> = look.functions.iter().collect();
        functions.retain(|now| has_function(&now.function.name, &now.function.user));
        let mut containers: Vec<&ContainerNow> = look.containers.iter().collect();
        containers.retain(|now| has_container(&now.container.function, &now.container.user));
        users.sort_by_key(|user| std::cmp::Reverse(user.running_tasks));
        functions.sort_by_key(|now| std::cmp::Reverse((now.running, now.waiting)));
        containers.sort_by_key(|now| std::cmp::Reverse(now.container.running_tasks));
        let mut work = look.work();
        let totals = (users.len(), functions.len(), containers.len());
        let balance_total = users.iter().map(|user| user.balance).sum();
        users.truncate(ROWS_MAX);
        functions.truncate(ROWS_MAX);
        containers.truncate(ROWS_MAX);
        Now {
            at_ms: look.at_ms,
            unknown: look.unknown(),
            node: &look.node,
            work: work.remove(&self.subject()),
            funds: match self {
                Self::User(name) => look.funds().remove(name.as_str()),
                Self::Overview | Self::Function(_) | Self::Node => None,
            },
            users,
            users_total: totals.0,
            balance_total,
            functions,
            functions_total: totals.1,
            containers,
            containers_total: totals.2,
        }
    }
}
