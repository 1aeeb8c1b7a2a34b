use proto::container::v1::{self as container, TaskState};
use proto::credit::v1 as credit;
use snapbox::{assert_data_eq, str};

use super::*;

const STARTED_AT_MS: i64 = 1_795_000_000_000;

#[test]
fn times_are_cut_and_never_negative() {
    assert_eq!(seconds(1999), "1.999 s");
    assert_eq!(seconds(-5), "0.000 s", "the clock went back");
    assert_eq!(cpu_seconds(CpuTime::from_micros(1_999_999)), "1.999 s");
}

#[test]
fn a_span_is_told_in_the_units_that_matter() {
    for (seconds, told) in [
        (0, "0 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (3_599, "59 min 59 s"),
        (7_260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
    ] {
        assert_eq!(span(seconds), told);
    }
}

fn user(name: &str) -> credit::User {
    credit::User {
        name: name.to_owned(),
        standing: credit::Standing::Good.into(),
        balance_halfords: 450_000_000,
        min_balance_halfords: 200_000_000,
        debt_limit_halfords: 200_000_000,
        alert_at_halfords: 200_000_000,
        policy: credit::Policy::Greedy.into(),
        billing: credit::Billing::Used.into(),
        on_shortage: credit::OnShortage::Together.into(),
        cpu_time_us_per_grc: 600_000_000,
        accounting: true,
        deposit_address: "mwg6iqr8oW9N24wE4ncVJnb8XHvSj2ArMD".to_owned(),
        ..credit::User::default()
    }
}

#[test]
fn a_user_who_spends_is_told_how_long_it_lasts() {
    let user = credit::User {
        pending_deposit_halfords: 100_000_000,
        burn_halfords_per_hour: 1_200_000_000,
        runway_ms: Some(1_350_000),
        live_sessions: 2,
        millicores: 2000,
        min_runway_s: 600,
        max_spend_halfords_per_hour: Some(1_500_000_000),
        alert_webhook: "https://example.org/alerts".to_owned(),
        ..user("alice")
    };
    assert_data_eq!(
        User::from(user).text(),
        str![[r#"
name             alice
balance          4.50000000 GRC
pending deposit  1.00000000 GRC
standing         good
lasts            22 min 30 s at 12.00000000 GRC an hour
min balance      2.00000000 GRC
debt limit       2.00000000 GRC
policy           greedy
billing          used
min runway       600 s
on shortage      together
max spend        15.00000000 GRC/h
alert at         2.00000000 GRC
alert webhook    https://example.org/alerts
one GRC buys     600.000000 s of CPU time
running tasks    2 on 2000m
deposit address  mwg6iqr8oW9N24wE4ncVJnb8XHvSj2ArMD

"#]]
    );
}

#[test]
fn users_stand_below_each_other_whatever_they_owe() {
    let users = [
        user("alice"),
        credit::User {
            balance_halfords: -12_345,
            standing: credit::Standing::InDebt.into(),
            live_sessions: 3,
            ..user("bob")
        },
        credit::User {
            accounting: false,
            ..user("laboratory")
        },
    ];
    assert_data_eq!(
        Users(users.map(User::from).into()).text(),
        str![[r#"
NAME        BALANCE      PENDING     STANDING    RUNNING  DEPOSIT ADDRESS
alice       4.50000000   0.00000000  good        0        mwg6iqr8oW9N24wE4ncVJnb8XHvSj2ArMD
bob         -0.00012345  0.00000000  in-debt     3        mwg6iqr8oW9N24wE4ncVJnb8XHvSj2ArMD
laboratory  4.50000000   0.00000000  not billed  0        mwg6iqr8oW9N24wE4ncVJnb8XHvSj2ArMD

"#]]
    );
}

#[test]
fn functions_say_what_keeps_them() {
    let function = |name: &str, refusal: &str| {
        Function::from(credit::Function {
            name: name.to_owned(),
            user: "alice".to_owned(),
            may_start: refusal.is_empty(),
            refusal: refusal.to_owned(),
            ..credit::Function::default()
        })
    };
    let problem = Problem {
        error: "the bucket has no `utils/process_task.sh`".to_owned(),
        hint: "upload the function's script there".to_owned(),
    };
    let functions = [
        FunctionNow {
            function: function("stress", ""),
            problem: None,
        },
        FunctionNow {
            function: function("transcode", ""),
            problem: Some(problem),
        },
        FunctionNow {
            function: function("genomics", "the balance is at the debt limit"),
            problem: None,
        },
    ];
    assert_data_eq!(
        Functions(functions.into()).text(),
        str![[r#"
NAME       USER   MAX SPEND  STARTS TASKS
stress     alice  off        yes
transcode  alice  off        no: the bucket has no `utils/process_task.sh`; upload the function's script there
genomics   alice  off        no: the balance is at the debt limit

"#]]
    );
}

fn task(key: &str, state: TaskState, attempts: Vec<container::Attempt>) -> Task {
    Task::from(container::Task {
        function: "stress".to_owned(),
        object_key: key.to_owned(),
        state: state.into(),
        attempts,
        ..container::Task::default()
    })
}

fn attempt(seconds: i64, reason: &str) -> container::Attempt {
    let cpu = u64::try_from(seconds).unwrap() * 1_500_000;
    container::Attempt {
        number: 1,
        started_at_ms: STARTED_AT_MS,
        ended_at_ms: if seconds == 0 {
            0
        } else {
            STARTED_AT_MS + seconds * 1000
        },
        cpu_time_us: cpu,
        throttled_us: cpu / 10,
        amount_halfords: seconds * 250_000,
        reason: reason.to_owned(),
        ..container::Attempt::default()
    }
}

#[test]
fn tasks_are_listed_with_what_became_of_them_and_what_still_waits() {
    let tasks = vec![
        task("long.txt", TaskState::Running, vec![attempt(0, "")]),
        task("video one.mp4", TaskState::Succeeded, vec![attempt(12, "")]),
        task(
            "twice.txt",
            TaskState::Failed,
            vec![attempt(1, ""), attempt(2, "exit status 3")],
        ),
        task("evil\u{1b}[2J.txt", TaskState::Claimed, Vec::new()),
    ];
    let waiting = |function: &str, tasks, has_more, problem: &str| {
        Waiting::from(Queue {
            function: function.to_owned(),
            waiting: tasks,
            has_more,
            problem: problem.to_owned(),
            hint: "`gridfaas function start genomics` lets them start again".to_owned(),
        })
    };
    let listed = Tasks {
        tasks,
        waiting: vec![
            waiting("stress", Some(0), false, ""),
            waiting("transcode", Some(1000), true, ""),
            waiting("genomics", Some(3), false, "the function is stopped"),
        ],
        now: Timestamp::from_unix_ms(STARTED_AT_MS + 61_250),
    };
    assert_data_eq!(
        listed.text(),
        str![[r#"
FUNCTION  TASK               STATE      ATTEMPTS  WALL      CPU       THROTTLED  CHARGE      REASON
stress    long.txt           running    1         61.250 s  0.000 s   0.000 s    0.00000000
stress    video one.mp4      succeeded  1         12.000 s  18.000 s  1.800 s    0.03000000
stress    twice.txt          failed     2         2.000 s   4.500 s   0.450 s    0.00750000  exit status 3
stress    evil/u{1b}[2J.txt  claimed    0         -         0.000 s   0.000 s    0.00000000

1000 or more waiting in transcode
3 waiting in genomics: the function is stopped; `gridfaas function start genomics` lets them start again

"#]]
    );
}

#[test]
fn containers_are_listed_with_their_limits() {
    let container = container::Container {
        container_id: "01a20471-294f-73c0-ab6e-04b7fef88a2d".to_owned(),
        function: "stress".to_owned(),
        user: "alice".to_owned(),
        policy: "tracking".to_owned(),
        millicores: 500,
        max_millicores: 2000,
        used_millicores: 480,
        cpu_time_us: 12_345_678,
        throttled_us: 7_000_000,
        running_tasks: 1,
        restriction: "throttle".to_owned(),
        ..container::Container::default()
    };
    assert_data_eq!(
        Containers(vec![container.into()]).text(),
        str![[r#"
CONTAINER                             FUNCTION  USER   POLICY    ALLOCATED  MAX    USED  CPU       THROTTLED  TASKS  RESTRICTION
01a20471-294f-73c0-ab6e-04b7fef88a2d  stress    alice  tracking  500m       2000m  480m  12.345 s  7.000 s    1      throttle

"#]]
    );
}
