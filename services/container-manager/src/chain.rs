//! CHAIN: the results of a task become tasks of the function that its own names, with the lineage they came of.
//!
//! Who may spend what is credit-manager's to judge: it knows the parent that an object names, and believes nothing else.
//! The root and its cap stand on the object for people to read.

use std::collections::HashSet;
use std::fs::File;

use tracing::{info, warn};
use units::{FunctionName, TaskId};

use crate::documents::Settled;
use crate::layout;
use crate::publish::PublishError;
use crate::spool::Spool;
use crate::store::{Metadata, ObjectStore, StoreError};

/// The task that the object is a result of.
pub const META_PARENT: &str = "gridfaas-parent";
/// The task at the beginning of its lineage.
pub const META_ROOT: &str = "gridfaas-root";
/// What a task may cost, in GRC; of a chained one, what its lineage may.
pub const META_MAX_GRC: &str = "max-grc";

/// Objects in one listing.
const PAGE: u32 = 1000;

/// What became of a task's results, for its receipt.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Chained {
    pub to: FunctionName,
    pub objects: usize,
    /// Why they are not there; absent if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Puts every result into the next function's `input/`, if there is one. The same again puts only what is missing there,
/// and credit-manager takes what slips through for the task it was.
pub async fn put_results(
    store: &dyn ObjectStore,
    spool: &Spool,
    settled: &Settled<'_>,
) -> Result<Option<Chained>, PublishError> {
    let Some(to) = settled.run.and_then(|run| run.chain_to.as_ref()) else {
        return Ok(None);
    };
    let names = spool.read_names()?;
    let put = put_all(store, spool, settled, to, &names).await;
    let (objects, problem) = match put {
        Ok(()) => (names.len(), None),
        // Deleted by its user: no reason to keep this task from its end.
        Err(PublishError::Store(err @ StoreError::NoSuchBucket { .. })) => {
            warn!(%to, "results not chained, the bucket is gone");
            (0, Some(err.to_string()))
        }
        Err(err) => return Err(err),
    };
    info!(task_id = %settled.licence.task, %to, objects, "results chained");
    Ok(Some(Chained {
        to: to.clone(),
        objects,
        problem,
    }))
}

async fn put_all(
    store: &dyn ObjectStore,
    spool: &Spool,
    settled: &Settled<'_>,
    to: &FunctionName,
    names: &[String],
) -> Result<(), PublishError> {
    let (from, licence) = (&settled.attempt.function, settled.licence);
    let there = already_there(store, to, &layout::chained_folder(from, licence.task)).await?;
    let metadata = metadata(
        licence.task,
        licence.root,
        licence.lineage_cap.map(|cap| cap.to_string()),
    );
    for (number, name) in names.iter().enumerate() {
        let key = layout::chained_key(from, licence.task, name);
        if there.contains(key.as_str()) {
            continue;
        }
        let path = spool.results().join(number.to_string());
        let file = File::open(&path).map_err(|err| PublishError::Spool { path, err })?;
        store.upload(to.as_str(), &key.input(), file, &metadata).await?;
    }
    Ok(())
}

fn metadata(parent: TaskId, root: TaskId, cap: Option<String>) -> Metadata {
    let mut metadata = Metadata::from([
        (META_PARENT.to_owned(), parent.to_string()),
        (META_ROOT.to_owned(), root.to_string()),
    ]);
    metadata.extend(cap.map(|cap| (META_MAX_GRC.to_owned(), cap)));
    metadata
}

/// What an earlier, cut off try has put there, wherever it is by now. In the order in which objects move, so that none
/// is missed on its way.
async fn already_there(
    store: &dyn ObjectStore,
    to: &FunctionName,
    folder: &str,
) -> Result<HashSet<String>, StoreError> {
    let mut there = HashSet::new();
    for place in [layout::INPUT, layout::PROCESSING, layout::OUTPUT] {
        let (prefix, mut after) = (format!("{place}{folder}"), None::<String>);
        loop {
            let listed = store.list(to.as_str(), &prefix, after.as_deref(), PAGE).await?;
            after = listed.last().map(|object| object.key.clone());
            let is_last = listed.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
            there.extend(
                listed
                    .iter()
                    .filter_map(|object| Some(object.key.strip_prefix(place)?.to_owned())),
            );
            if is_last {
                break;
            }
        }
    }
    Ok(there)
}
