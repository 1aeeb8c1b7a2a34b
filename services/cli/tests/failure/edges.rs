//! The services that another needs, gone for a while.

use serde_json::Value;

use crate::world::World;
use crate::world::processes::roles::Role;

pub(crate) fn work_goes_on_and_is_charged_while_the_wallet_is_dead_and_what_needs_coins_is_refused() {
    let Some(mut world) = World::start(1, None) else {
        return;
    };
    world.function("work", "alice", "for i in {1..20000}; do :; done");
    let tasks = ["before", "meanwhile", "after"].map(|name| world.file(name, "x"));
    let run = |world: &World, task: &str| world.text(&["submit", "work", task, "--wait"]);
    run(&world, &tasks[0]);

    world.kill(Role::Chain);
    // The ledger is the truth, and it is there.
    run(&world, &tasks[1]);
    let cannot_be_reached = |said: &str| {
        assert!(
            said.contains("the wallet at http://") && said.contains("cannot be reached"),
            "{said}"
        );
    };
    cannot_be_reached(&world.error(&["user", "add", "bob"]));
    let audit = world.run(&["--output", "json", "audit"]);
    assert_eq!(audit.status.code(), Some(1), "what nobody can see is not proven");
    let audit: Value = serde_json::from_slice(&audit.stdout).unwrap();
    for check in audit["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["ok"] == false)
    {
        cannot_be_reached(check["detail"].as_str().unwrap());
    }
    cannot_be_reached(&world.log());

    world.start_again(Role::Chain);
    world.text(&["user", "list"]);
    run(&world, &tasks[2]);
    world.until_done("work", 3);
    world.end();
}

pub(crate) fn a_running_task_outlives_a_dead_store_and_what_keeps_others_from_running_is_said() {
    let Some(mut world) = World::start(1, None) else {
        return;
    };
    world.function("slow", "alice", "sleep 1; cp \"$1\" \"$2/copy\"");
    let tasks = ["first", "second", "later"].map(|name| world.file(name, name));
    world.text(&["submit", "slow", &tasks[0], &tasks[1]]);
    world.until("a running task", &["ps"], |tasks| {
        tasks["tasks"][0]["state"] == "running"
    });

    world.kill(Role::Store);
    let said = world.error(&["submit", "slow", &tasks[2]]);
    assert!(said.contains("does not answer"), "{said}");
    world.until_problem("slow", "the object store at http://");
    let ps = world.json(&["ps", "--function", "slow"]);
    assert_eq!(ps["waiting"][0]["tasks"], Value::Null, "nobody can count them");
    assert!(
        world
            .log()
            .contains("no task taken in, will retry until it works"),
        "{}",
        world.log()
    );

    world.start_again(Role::Store);
    let done = world.until_done("slow", 2);
    for task in done["tasks"].as_array().unwrap() {
        assert_eq!(task["attempts"].as_array().unwrap().len(), 1, "{task:#}");
    }
    world.text(&["submit", "slow", &tasks[2], "--wait"]);
    world.end();
}
