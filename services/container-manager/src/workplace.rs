//! Where a function's tasks run: its container, made from what the user put under `utils/`, and why there is none.

use std::sync::Arc;
use std::time::Duration;

use service_kit::Chain;
use tokio::time::Instant;
use tracing::debug;
use units::{FunctionName, UserName};

use crate::credit::{CreditError, FunctionEntry};
use crate::function::{FunctionSettings, retry_delay};
use crate::layout;
use crate::memory::PlaceInLine;
use crate::node::Node;
use crate::problem::{OURS_TO_MEND, Problem};
use crate::store::StoreError;
use crate::utils::{ImageObject, Script, Utils};
use crate::warm::{WarmContainer, WarmError};

pub struct Workplace {
    node: Arc<Node>,
    function: FunctionName,
    user: UserName,
    utils: Utils,
    container: Option<Arc<WarmContainer>>,
    broken: Option<Broken>,
    /// In line for the node's memory.
    place: Option<PlaceInLine>,
    /// The function that results go on to, found to be this user's.
    chain_known: Option<FunctionName>,
}

/// An image that no container could be started from.
struct Broken {
    image: ImageObject,
    problem: Problem,
    failures: u32,
    /// When to try it again; absent for an image that can only be replaced.
    again_at: Option<Instant>,
}

/// What a task is run with.
pub struct Ready {
    pub settings: FunctionSettings,
    pub script: Script,
    pub container: Arc<WarmContainer>,
    /// The container was not there before, and all its slots are free.
    pub is_new: bool,
}

impl Workplace {
    pub fn new(node: Arc<Node>, function: FunctionName, user: UserName) -> Self {
        Self {
            node,
            function,
            user,
            utils: Utils::default(),
            container: None,
            broken: None,
            place: None,
            chain_known: None,
        }
    }

    /// Goes on with a container of an earlier manager.
    pub fn adopt(&mut self, container: Arc<WarmContainer>) {
        self.container = Some(container);
    }

    pub fn container(&self) -> Option<&Arc<WarmContainer>> {
        self.container.as_ref()
    }

    /// Reads what the user changed under `utils/`.
    pub async fn refresh(&mut self) -> Result<(), StoreError> {
        self.utils
            .refresh(self.node.store.as_ref(), self.function.as_str())
            .await
    }

    /// All that a task needs, with a container that is started if there is none; or what the user has to mend first.
    pub async fn ready(&mut self) -> Result<Result<Ready, Problem>, CreditError> {
        // Whoever does not come to ask for memory gives the place up.
        let mut place = self.place.take();
        let (settings, script, image) = match self.recipe() {
            Ok(recipe) => recipe,
            Err(problem) => return Ok(Err(problem)),
        };
        if let Some(chain) = &settings.chain
            && let Some(problem) = self.chain_problem(&chain.to).await?
        {
            return Ok(Err(problem));
        }
        if let Some(broken) = self.broken.as_ref().filter(|broken| broken.image == image)
            && broken.again_at.is_none_or(|at| Instant::now() < at)
        {
            return Ok(Err(broken.problem.clone()));
        }
        let (container, is_new) = match self.warm(&settings, &image, &mut place).await {
            Ok(warm) => warm,
            Err(err) => {
                self.place = place;
                return Ok(Err(self.on_start_failed(image, &err)));
            }
        };
        self.broken = None;
        Ok(Ok(Ready {
            settings,
            script,
            container,
            is_new,
        }))
    }

    fn recipe(&self) -> Result<(FunctionSettings, Script, ImageObject), Problem> {
        if self.utils.is_stopped() {
            return Err(Problem::new(
                format!("the function is stopped: there is `{}`", layout::STOPPED),
                format!(
                    "`gridfaas function start {}`, or delete the object",
                    self.function
                ),
            ));
        }
        let settings = self.utils.settings()?;
        let script = self.utils.script()?;
        let image = self.utils.image(&settings)?;
        Ok((settings, script, image))
    }

    /// Why results cannot go on to that function; `None` if they can. A function never changes hands, so one that was found
    /// good stays so.
    async fn chain_problem(&mut self, to: &FunctionName) -> Result<Option<Problem>, CreditError> {
        if self.chain_known.as_ref() == Some(to) {
            return Ok(None);
        }
        let functions = self.node.credit.functions().await?;
        let is_ours = |function: &FunctionEntry| function.name == *to && function.user == self.user;
        if functions.iter().any(is_ours) {
            self.chain_known = Some(to.clone());
            return Ok(None);
        }
        Ok(Some(Problem::new(
            format!(
                "`chain.to` in `{}` names `{to}`, which is no function of {}",
                layout::SETTINGS,
                self.user
            ),
            format!(
                "deploy it with `gridfaas function create {to} --user {}`, or mend the file",
                self.user
            ),
        )))
    }

    async fn warm(
        &mut self,
        settings: &FunctionSettings,
        image: &ImageObject,
        place: &mut Option<PlaceInLine>,
    ) -> Result<(Arc<WarmContainer>, bool), WarmError> {
        if let Some(container) = &self.container {
            if container.is_alive() {
                return Ok((container.clone(), false));
            }
            self.stop("it died").await;
        }
        let started = WarmContainer::start(&self.node, &self.function, &self.user, settings, image, place);
        let started = started.await?;
        self.container = Some(started.clone());
        Ok((started, true))
    }

    fn on_start_failed(&mut self, image: ImageObject, err: &WarmError) -> Problem {
        let before = self.broken.take().filter(|broken| broken.image == image);
        let failures = before.map_or(0, |broken| broken.failures) + 1;
        let told = Chain(err).to_string();
        let retry = Some(retry_delay(failures));
        let (problem, delay) = match err {
            WarmError::Memory(full) => {
                let hint = if full.is_for_good() {
                    "lower `memory_mib` or `concurrency` in `utils/function.toml`"
                } else {
                    "the tasks wait until other containers have stopped"
                };
                (Problem::with_figures(told, hint), Some(Duration::ZERO))
            }
            WarmError::Image(image) if !image.is_transient() => {
                (Problem::new(told, "upload a working image under `utils/`"), None)
            }
            WarmError::Staging(_) => (Problem::new(told, "see the objects under `staging/`"), retry),
            WarmError::Image(_) | WarmError::Cgroup(_) | WarmError::Container(_) | WarmError::Disk { .. } => {
                (Problem::new(told, OURS_TO_MEND), retry)
            }
        };
        self.broken = Some(Broken {
            image,
            problem: problem.clone(),
            failures,
            again_at: delay.map(|delay| Instant::now() + delay),
        });
        problem
    }

    /// Why a container in which nothing runs is to stop; `None` if it stays.
    pub async fn reason_to_stop(&mut self, idle_since: Instant, may_start: bool) -> Option<&'static str> {
        let container = self.container.as_ref()?;
        if !container.is_alive() {
            return Some("it died");
        }
        if !may_start {
            return Some("no funds");
        }
        if self.is_wanted() {
            return Some("others wait for its memory");
        }
        // The user may have changed the timeout meanwhile, or stopped the function.
        if let Err(err) = self.refresh().await {
            debug!(error = %Chain(&err), "`utils/` not read");
        }
        if self.utils.is_stopped() {
            return Some("the function is stopped");
        }
        (idle_since.elapsed() > self.utils.idle_timeout()).then_some("idle")
    }

    /// Whether others wait for the memory of the container.
    pub fn is_wanted(&self) -> bool {
        let container = self.container.as_ref();
        container.is_some_and(|container| container.memory().is_wanted())
    }

    /// Whether the container is to take no more tasks, because others wait for its memory.
    pub fn is_to_yield(&self) -> bool {
        let container = self.container.as_ref();
        container.is_some_and(|container| container.memory().is_to_yield())
    }

    /// Returns when there may be memory for a container that found none; never if nothing waits for any.
    pub async fn turn(&self) {
        match &self.place {
            Some(place) => place.turn().await,
            None => std::future::pending().await,
        }
    }

    /// Waits for memory no longer.
    pub fn leave_line(&mut self) {
        self.place = None;
    }

    /// Stops the container, if there is one.
    pub async fn stop(&mut self, why: &str) {
        if let Some(container) = self.container.take() {
            container.stop(&self.node, why).await;
        }
    }
}
