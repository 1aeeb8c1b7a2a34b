//! One look at everything: who has what, what waits and what runs.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proto::container::v1::{GetNodeResponse, Queue};
use schema::{Container, Function, User};
use serde::Serialize;
use service_kit::{Clock as _, SystemClock};
use tonic::{Code, Status};
use units::{CpuTime, MilliCores, Timestamp};

use crate::history::{Funds, Subject, Work};
use crate::services::Services;

/// A service that takes longer than this is not there.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What was seen. What a service did not answer is as it was before, and said in `unknown`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) at_ms: Timestamp,
    pub(crate) users: Vec<User>,
    pub(crate) functions: Vec<FunctionNow>,
    pub(crate) containers: Vec<ContainerNow>,
    pub(crate) node: Node,
    pub(crate) money: Answer,
    pub(crate) work: Answer,
}

/// Whether a service answered at this look.
#[derive(Clone, Debug, Default)]
pub(crate) enum Answer {
    #[default]
    NotAsked,
    Given,
    /// Why not, for people.
    Refused(String),
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct FunctionNow {
    #[serde(flatten)]
    pub(crate) function: Function,
    /// Objects in `input/`; null where the store does not tell.
    pub(crate) waiting: Option<u32>,
    /// More wait than were counted.
    pub(crate) has_more: bool,
    pub(crate) running: u32,
    /// What keeps its tasks from running; empty if nothing does.
    pub(crate) problem: String,
    pub(crate) hint: String,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct ContainerNow {
    #[serde(flatten)]
    pub(crate) container: Container,
    /// CPU that the limit held back since the look before.
    pub(crate) held_back: MilliCores,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) capacity: MilliCores,
    pub(crate) memory_capacity_mib: u64,
    pub(crate) memory_reserved_mib: u64,
    /// What receipts call the key they are signed with.
    pub(crate) receipt_key_id: String,
}

impl From<GetNodeResponse> for Node {
    fn from(node: GetNodeResponse) -> Self {
        Self {
            name: node.node_id,
            capacity: MilliCores::from_millicores(node.capacity_millicores),
            memory_capacity_mib: node.memory_capacity_mib,
            memory_reserved_mib: node.memory_reserved_mib,
            receipt_key_id: node.receipt_key_id,
        }
    }
}

impl Answer {
    fn to<T>(answer: &Result<T, Status>) -> Self {
        match answer {
            Ok(_) => Self::Given,
            Err(status) => Self::Refused(reason(status)),
        }
    }

    pub(crate) fn is_given(&self) -> bool {
        matches!(self, Self::Given)
    }
}

/// What a service said instead of an answer.
pub(crate) fn reason(status: &Status) -> String {
    match (status.code(), status.message()) {
        (Code::Unavailable, _) => "it cannot be reached".to_owned(),
        (code, "") => code.description().to_owned(),
        (_, message) => message.to_owned(),
    }
}

impl Look {
    /// Asks both services. Takes no longer than [`ANSWER_MAX`].
    pub(crate) async fn take(services: &Services, before: &Self) -> Self {
        let money = async { tokio::try_join!(services.users(), services.functions()) };
        let work = async { tokio::try_join!(services.node(), services.containers(), services.queues()) };
        let (money, work) = tokio::join!(in_time(money), in_time(work));
        let at_ms = SystemClock.now();
        let mut look = Self {
            at_ms,
            money: Answer::to(&money),
            work: Answer::to(&work),
            ..before.clone()
        };
        let mut functions = None;
        if let Ok((users, found)) = money {
            look.users = users;
            functions = Some(found);
        }
        let functions = functions.unwrap_or_else(|| before.known_functions());
        let queues = match work {
            Ok((node, containers, queues)) => {
                look.node = Node::from(node);
                look.containers = with_held_back(containers, before, at_ms);
                queues
            }
            Err(_) => Vec::new(),
        };
        look.functions = with_queues(functions, queues, &look.containers);
        look
    }

    fn known_functions(&self) -> Vec<Function> {
        self.functions.iter().map(|now| now.function.clone()).collect()
    }

    /// What the work of everybody takes who is known to have or to do any.
    pub(crate) fn work(&self) -> BTreeMap<Subject, Work> {
        let mut all = BTreeMap::new();
        if !self.work.is_given() {
            return all;
        }
        let node = all.entry(Subject::Node).or_insert_with(Work::default);
        node.max = self.node.capacity;
        for user in &self.users {
            all.insert(Subject::User(user.name.clone()), Work::default());
        }
        for now in &self.functions {
            let waiting = now.waiting.unwrap_or(0);
            let function = Subject::Function(now.function.name.clone());
            all.insert(function, Work::default());
            for subject in now.subjects() {
                let work = all.entry(subject).or_default();
                work.waiting = work.waiting.saturating_add(waiting);
            }
        }
        for now in &self.containers {
            for subject in now.subjects() {
                let is_node = subject == Subject::Node;
                let work = all.entry(subject).or_default();
                let container = &now.container;
                work.used = [work.used, container.used].into_iter().sum();
                work.allocated = [work.allocated, container.allocated].into_iter().sum();
                work.held_back = [work.held_back, now.held_back].into_iter().sum();
                work.running = work.running.saturating_add(container.running_tasks);
                if !is_node {
                    work.max = [work.max, container.max].into_iter().sum();
                }
            }
        }
        all
    }

    /// What everybody has; empty while that is not known.
    pub(crate) fn funds(&self) -> BTreeMap<String, Funds> {
        let funds = |user: &User| Funds {
            balance: user.balance,
            debt_limit: user.debt_limit,
        };
        let users = self.users.iter().filter(|_| self.money.is_given());
        users.map(|user| (user.name.clone(), funds(user))).collect()
    }

    /// What is not as it is now, for people: which service did not answer, and why.
    pub(crate) fn unknown(&self) -> Vec<String> {
        let of = |service: &str, answer: &Answer| match answer {
            Answer::Refused(why) => Some(format!("{service} does not answer: {why}")),
            Answer::NotAsked | Answer::Given => None,
        };
        let services = [("credit-manager", &self.money), ("container-manager", &self.work)];
        services
            .iter()
            .filter_map(|(service, answer)| of(service, answer))
            .collect()
    }
}

impl FunctionNow {
    /// Whose waiting tasks these are.
    fn subjects(&self) -> [Subject; 3] {
        let Function { name, user, .. } = &self.function;
        [
            Subject::Node,
            Subject::User(user.clone()),
            Subject::Function(name.clone()),
        ]
    }
}

impl ContainerNow {
    /// Whose work it does.
    fn subjects(&self) -> [Subject; 4] {
        let Container {
            container_id,
            function,
            user,
            ..
        } = &self.container;
        [
            Subject::Node,
            Subject::User(user.clone()),
            Subject::Function(function.clone()),
            Subject::Container(container_id.clone()),
        ]
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!(
            "it took longer than {} s",
            ANSWER_MAX.as_secs()
        ))),
    }
}

fn with_held_back(containers: Vec<Container>, before: &Look, at: Timestamp) -> Vec<ContainerNow> {
    let known: HashMap<&str, CpuTime> = before
        .containers
        .iter()
        .map(|now| (now.container.container_id.as_str(), now.container.throttled_us))
        .collect();
    let wall = Duration::from_millis(u64::try_from(at.ms_since(before.at_ms)).unwrap_or(0));
    let held_back = |container: &Container| match known.get(container.container_id.as_str()) {
        Some(known) if !wall.is_zero() => {
            MilliCores::that_delivers(container.throttled_us.saturating_sub(*known), wall)
        }
        _ => MilliCores::ZERO,
    };
    let now = |container: Container| ContainerNow {
        held_back: held_back(&container),
        container,
    };
    containers.into_iter().map(now).collect()
}

fn with_queues(
    functions: Vec<Function>,
    queues: Vec<Queue>,
    containers: &[ContainerNow],
) -> Vec<FunctionNow> {
    let mut queues: HashMap<String, Queue> = queues
        .into_iter()
        .map(|queue| (queue.function.clone(), queue))
        .collect();
    let mut running: HashMap<&str, u32> = HashMap::new();
    for ContainerNow { container, .. } in containers {
        *running.entry(container.function.as_str()).or_default() += container.running_tasks;
    }
    let now = |function: Function| {
        let queue = queues.remove(&function.name).unwrap_or_default();
        FunctionNow {
            running: running.get(function.name.as_str()).copied().unwrap_or(0),
            waiting: queue.waiting,
            has_more: queue.has_more,
            problem: queue.problem,
            hint: queue.hint,
            function,
        }
    };
    functions.into_iter().map(now).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, function: &str, used: u32, throttled_us: u64) -> Container {
        Container::from(proto::container::v1::Container {
            container_id: id.to_owned(),
            function: function.to_owned(),
            user: "alice".to_owned(),
            millicores: 500,
            max_millicores: 2000,
            used_millicores: used,
            running_tasks: 1,
            throttled_us,
            ..Default::default()
        })
    }

    fn function(name: &str) -> Function {
        Function::from(proto::credit::v1::Function {
            name: name.to_owned(),
            user: "alice".to_owned(),
            ..Default::default()
        })
    }

    fn look(waiting: Option<u32>) -> Look {
        let containers = with_held_back(
            vec![container("c1", "a", 300, 0), container("c2", "b", 400, 0)],
            &Look::default(),
            Timestamp::from_unix_ms(1000),
        );
        let queue = Queue {
            function: "a".to_owned(),
            waiting,
            ..Default::default()
        };
        Look {
            functions: with_queues(vec![function("a"), function("b")], vec![queue], &containers),
            containers,
            node: Node {
                capacity: MilliCores::from_millicores(4000),
                ..Node::default()
            },
            work: Answer::Given,
            ..Look::default()
        }
    }

    #[test]
    fn work_adds_up_for_container_function_user_and_node() {
        let work = look(Some(3)).work();
        let of = |subject: &Subject| {
            let Work {
                used,
                max,
                waiting,
                running,
                ..
            } = work[subject];
            (used.millicores(), max.millicores(), waiting, running)
        };
        assert_eq!(of(&Subject::Container("c1".to_owned())), (300, 2000, 0, 1));
        assert_eq!(of(&Subject::Function("a".to_owned())), (300, 2000, 3, 1));
        assert_eq!(of(&Subject::User("alice".to_owned())), (700, 4000, 3, 2));
        assert_eq!(of(&Subject::Node), (700, 4000, 3, 2));
    }

    #[test]
    fn a_service_that_does_not_answer_leaves_a_gap_and_is_named() {
        let silent = Look {
            work: Answer::to(&Err::<(), _>(Status::unavailable("connection refused"))),
            ..look(Some(3))
        };
        assert_eq!(silent.work(), BTreeMap::new());
        assert_eq!(
            silent.unknown(),
            ["container-manager does not answer: it cannot be reached"]
        );
    }

    #[test]
    fn what_was_held_back_is_by_difference_and_a_new_container_has_none() {
        let before = Look {
            at_ms: Timestamp::from_unix_ms(1000),
            containers: with_held_back(
                vec![container("c1", "a", 0, 100_000)],
                &Look::default(),
                Timestamp::default(),
            ),
            ..Look::default()
        };
        let now = vec![container("c1", "a", 0, 600_000), container("c2", "a", 0, 900_000)];
        let now = with_held_back(now, &before, Timestamp::from_unix_ms(2000));
        let held_back: Vec<u32> = now.iter().map(|now| now.held_back.millicores()).collect();
        assert_eq!(held_back, [500, 0]);
    }
}
