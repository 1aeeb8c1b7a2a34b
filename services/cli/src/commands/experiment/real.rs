//! Runs an experiment on a stack of its own, with real containers, and brings home the recording.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use access::Channel;
use anyhow::{Context as _, bail, ensure};
use container_manager::recording::{self, Entry};
use dev_stack::{Ports, UpConfig};
use lab::experiment::Experiment;
use lab::real::{Content, Deposited, Dropped, Plan};
use proto::container::v1::{ListContainersRequest, ListTasksRequest, NotifyRequest, TaskState};
use proto::credit::v1::account_service_client::AccountServiceClient;
use proto::credit::v1::{
    AuditRequest, CreateFunctionRequest, CreateUserRequest, ListFunctionsRequest, UpdateUserRequest,
};
use service_kit::{Clock as _, SystemClock};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use units::{Amount, FunctionName, UserName};

use crate::commands::audit::Audit;
use crate::commands::user;
use crate::output::{Output, Show as _};
use crate::stack::{Stack, told};

/// Between two looks at a run.
const POLL: Duration = Duration::from_millis(100);
/// Enough to credit a deposit at once, whatever the confirmations.
const BLOCKS: u32 = 10;
const USER: &str = "experiment";
const FUNCTION: &str = "experiment";
/// A tenth of a core for a tenth of a second.
const WARM_UP: &str = "0.0.1-0.1.txt";

/// What the containers are made of.
pub(super) struct Files {
    pub(super) image: PathBuf,
    pub(super) script: PathBuf,
    /// Where the experiment's inputs are.
    pub(super) inputs: PathBuf,
}

impl Files {
    /// Looks below the current folder. Errors, before anything is started, if one is missing.
    pub(super) fn find(experiment: &Experiment, image: Option<PathBuf>) -> anyhow::Result<Self> {
        let name = &experiment.real.image;
        let inputs = Path::new("images").join(name);
        let files = Self {
            image: image.unwrap_or_else(|| PathBuf::from(format!("target/images/{name}.sif"))),
            script: inputs.join("process_task.sh"),
            inputs,
        };
        for (path, hint) in [
            (&files.image, format!("make it with `images/build.sh {name}`")),
            (&files.script, "run this in the repository".to_owned()),
        ] {
            ensure!(path.is_file(), "no file `{}` (hint: {hint})", path.display());
        }
        Ok(files)
    }
}

/// Runs it to its end. Errors if the stack fails, or the run takes longer than it possibly should, or the ledger and the
/// wallet do not agree after it.
pub(super) async fn run(
    plan: &Plan,
    experiment: &Experiment,
    files: &Files,
    output: Output,
) -> anyhow::Result<Vec<Entry>> {
    let folder =
        TempDir::with_prefix("gridfaas-experiment-").context("failed to make a folder for the stack")?;
    let recorded = folder.path().join("recording.jsonl");
    let config = UpConfig {
        ports: Ports::ANY,
        capacity_millicores: Some(plan.capacity.millicores()),
        hold: plan.hold,
        record: Some(recorded.clone()),
        scaler: plan.scaler.clone(),
        ..UpConfig::new(folder.path().to_owned())
    };
    let interrupted = service_kit::shutdown::on_signal()?;
    let shutdown = interrupted.child_token();
    let (ready, is_ready) = oneshot::channel();
    let serving = dev_stack::up(config, shutdown.clone(), |_| {
        // Whoever waited may have been interrupted.
        let _nobody = ready.send(());
        Ok(())
    });
    let driving = async {
        let _stop = shutdown.drop_guard_ref();
        is_ready.await.context("the stack did not start")?;
        let run = Run {
            stack: Stack::on(folder.path().to_owned()),
            user: USER.parse()?,
            function: FUNCTION.parse()?,
            plan,
            files,
            output,
        };
        run.until_over(experiment, &recorded, &interrupted).await
    };
    let (served, driven) = tokio::join!(serving, driving);
    served?;
    let (began_us, deposits) = driven?;
    let file = File::open(&recorded).with_context(|| format!("failed to read `{}`", recorded.display()))?;
    let entries: Vec<Entry> = recording::read(BufReader::new(file)).collect::<Result<_, _>>()?;
    Ok(lab::real::cut(plan, entries, began_us, &deposits))
}

struct Run<'a> {
    stack: Stack,
    user: UserName,
    function: FunctionName,
    plan: &'a Plan,
    files: &'a Files,
    output: Output,
}

impl Run<'_> {
    /// Where the run begins in the recording, in microseconds, and what was deposited in it.
    async fn until_over(
        &self,
        experiment: &Experiment,
        recorded: &Path,
        interrupted: &CancellationToken,
    ) -> anyhow::Result<(u64, Vec<Deposited>)> {
        self.set_up(experiment).await?;
        let began_us = age_us(recorded)?;
        let began = Instant::now();
        let driven = tokio::time::timeout(self.plan.deadline, async {
            let deposits = self.follow(began).await?;
            self.settle().await?;
            anyhow::Ok(deposits)
        });
        let deposits = tokio::select! {
            driven = driven => driven
                .with_context(|| format!("the run is not over after {} s", self.plan.deadline.as_secs()))??,
            () = interrupted.cancelled() => bail!("interrupted"),
        };
        let mut accounts = self.stack.accounts().await?;
        let audit = Audit::from(accounts.audit(AuditRequest {}).await.map_err(told)?.into_inner());
        ensure!(audit.ok, "the audit after the run fails\n{}", audit.text());
        Ok((began_us, deposits))
    }

    /// The user with the funds of the beginning, and the function.
    async fn set_up(&self, experiment: &Experiment) -> anyhow::Result<()> {
        let mut accounts = self.stack.accounts().await?;
        let name = self.user.to_string();
        accounts
            .create_user(CreateUserRequest { name })
            .await
            .map_err(told)?;
        let funds = &experiment.funds;
        let terms = UpdateUserRequest {
            name: self.user.to_string(),
            min_balance_halfords: Some(funds.min_balance.halfords()),
            debt_limit_halfords: Some(funds.debt_limit.halfords()),
            policy: Some(proto::credit::v1::Policy::from(funds.policy).into()),
            billing: Some(proto::credit::v1::Billing::from(funds.billing).into()),
            cpu_time_us_per_grc: Some(self.plan.cpu_time_per_grc.micros()),
            accounting: Some(funds.accounting),
            ..UpdateUserRequest::default()
        };
        accounts.update_user(terms).await.map_err(told)?;
        if funds.start.is_positive() {
            self.deposit(funds.start).await?;
        }

        let create = CreateFunctionRequest {
            name: self.function.to_string(),
            user: self.user.to_string(),
        };
        accounts.create_function(create).await.map_err(told)?;
        let (store, function) = (self.stack.store()?, &self.function);
        store.make_bucket(function).await?;
        store
            .put_file(function, "utils/image.sif", &self.files.image)
            .await?;
        for (key, text) in [
            ("utils/function.toml", self.plan.function_toml.clone()),
            ("utils/timeout.txt", format!("{}\n", self.plan.idle_timeout_s)),
        ] {
            store.put(function, key, text.into_bytes().into()).await?;
        }
        store
            .put_file(function, "utils/process_task.sh", &self.files.script)
            .await?;
        self.notify().await?;
        if self.plan.scale.speed > 1 {
            self.warm_up(&mut accounts, funds.accounting).await?;
        }
        Ok(())
    }

    /// Lets a task run for nothing that nobody is charged for: the first one waits for its image to be unpacked, which would
    /// seem to take many times as long in a compressed run. Leaves no container.
    async fn warm_up(
        &self,
        accounts: &mut AccountServiceClient<Channel>,
        accounting: bool,
    ) -> anyhow::Result<()> {
        let terms = |accounting| UpdateUserRequest {
            name: self.user.to_string(),
            accounting: Some(accounting),
            ..UpdateUserRequest::default()
        };
        accounts.update_user(terms(false)).await.map_err(told)?;
        self.drop_task(&Dropped {
            name: WARM_UP.to_owned(),
            content: Content::Empty,
        })
        .await?;
        self.notify().await?;
        let warm = tokio::time::timeout(self.plan.deadline, self.settle()).await;
        warm.context("no container starts")??;
        accounts.update_user(terms(accounting)).await.map_err(told)?;
        Ok(())
    }

    /// Does everything at its time.
    async fn follow(&self, began: Instant) -> anyhow::Result<Vec<Deposited>> {
        let mut deposits = Vec::new();
        for step in &self.plan.steps {
            tokio::time::sleep_until(began + step.at).await;
            if let Some(amount) = step.deposit {
                self.deposit(amount).await?;
                self.say(began, &format!("{amount} GRC deposited"));
                deposits.push(Deposited {
                    at: began.elapsed(),
                    user: self.user.clone(),
                    amount,
                });
            }
            for task in &step.tasks {
                self.drop_task(task).await?;
            }
            if !step.tasks.is_empty() {
                self.say(began, &format!("{} tasks dropped", step.tasks.len()));
                self.notify().await?;
            }
        }
        Ok(deposits)
    }

    fn say(&self, began: Instant, what: &str) {
        self.output
            .say(format!("{:5.1} s  {what}", began.elapsed().as_secs_f32()));
    }

    /// Sends coins, and waits until they are credited.
    async fn deposit(&self, amount: Amount) -> anyhow::Result<()> {
        let mut accounts = self.stack.accounts().await?;
        let chain = self
            .stack
            .dev_chain()?
            .context("the stack has no development chain")?;
        let address = user::get_user(&mut accounts, &self.user).await?.deposit_address;
        let txid = chain.deposit(&address, amount).await?;
        chain.mine(BLOCKS).await?;
        while !user::is_credited(&mut accounts, &self.user, &txid).await? {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn drop_task(&self, task: &Dropped) -> anyhow::Result<()> {
        let (store, key) = (self.stack.store()?, format!("input/{}", task.name));
        let bytes = match &task.content {
            Content::File(input) => {
                return store
                    .put_file(&self.function, &key, &self.files.inputs.join(input))
                    .await;
            }
            Content::Phases(lines) => lines.clone().into_bytes(),
            Content::Empty => Vec::new(),
        };
        store.put(&self.function, &key, bytes.into()).await
    }

    async fn notify(&self) -> anyhow::Result<()> {
        let function = self.function.to_string();
        let mut node = self.stack.containers().await?;
        node.notify(NotifyRequest { function }).await.map_err(told)?;
        Ok(())
    }

    /// Waits until nothing runs, no container is left, and nothing waits that may start.
    async fn settle(&self) -> anyhow::Result<()> {
        let mut node = self.stack.containers().await?;
        let mut accounts = self.stack.accounts().await?;
        loop {
            let request = ListTasksRequest {
                live_only: true,
                ..ListTasksRequest::default()
            };
            let tasks = node.list_tasks(request).await.map_err(told)?.into_inner().tasks;
            let runs = tasks.iter().any(|task| task.state() != TaskState::Queued);
            let containers = node
                .list_containers(ListContainersRequest {})
                .await
                .map_err(told)?;
            let lives = !containers.into_inner().containers.is_empty();
            let waits = !self
                .stack
                .store()?
                .list(&self.function, "input/")
                .await?
                .is_empty();
            let functions = accounts
                .list_functions(ListFunctionsRequest::default())
                .await
                .map_err(told)?;
            let may_start = functions
                .into_inner()
                .functions
                .iter()
                .any(|function| function.may_start);
            if !(runs || lives || waits && may_start) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// How long ago a file was made, which is when the recording in it began.
fn age_us(path: &Path) -> anyhow::Result<u64> {
    let made = std::fs::metadata(path).and_then(|metadata| metadata.created());
    let made = made.with_context(|| format!("it is not known when `{}` was made", path.display()))?;
    let made = made
        .duration_since(UNIX_EPOCH)
        .context("a file made before 1970")?;
    let now = Duration::from_millis(u64::try_from(SystemClock.now().unix_ms())?);
    Ok(u64::try_from(now.saturating_sub(made).as_micros())?)
}
