//! `gridfaas ledger`

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand, ValueEnum};
use credit_manager::ledger::Reader;
use credit_manager::settlement::audit;
use proto::credit::v1::{BackupRequest, ReadTransfersRequest, Transfer as WireTransfer};
use schema::Transfer;
use serde::Serialize;
use units::UserName;

use crate::commands::audit::Audit;
use crate::output::{Output, Show, columns, pairs, printable};
use crate::stack::{Stack, told};
use crate::time::Moment;

/// The ledger's history.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Show the newest transfers
    Show(ShowArgs),
    /// Write transfers to a file, oldest first
    Export(ExportArgs),
    /// Copy the whole ledger to a file while it is in use
    Backup(BackupArgs),
    /// Prove a copy of the ledger, without any service; exit status 1 if a check fails
    Verify(VerifyArgs),
}

/// Which transfers.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Only those of this user
    #[arg(long)]
    user: Option<UserName>,
    /// Only those of this kind: deposit, charge, reversal, settlement, fee, withdrawal
    #[arg(long)]
    kind: Option<String>,
    /// Only those for this session, transaction or payment
    #[arg(long, value_name = "ID")]
    reference: Option<String>,
    /// Only those posted at this time or later, such as 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Only those posted before this time
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
}

impl Which {
    fn request(self) -> ReadTransfersRequest {
        ReadTransfersRequest {
            user: self.user.map(String::from).unwrap_or_default(),
            kind: self.kind.unwrap_or_default(),
            reference: self.reference.unwrap_or_default(),
            from_ms: self.from.map_or(0, Moment::unix_ms),
            until_ms: self.to.map_or(0, Moment::unix_ms),
            ..ReadTransfersRequest::default()
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    which: Which,
    /// Show at most this many
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    which: Which,
    /// What the file becomes
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: ExportFormat,
    /// A file that does not exist yet, or - for standard output
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One line for each transfer, under a heading
    #[default]
    Csv,
    /// One JSON object on each line
    JsonLines,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// A file that does not exist yet
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// What `gridfaas ledger backup` made
    file: PathBuf,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Transfers(Vec<Transfer>);

impl Show for Transfers {
    fn text(&self) -> String {
        columns(
            ["POSTED AT", "KIND", "FROM", "TO", "AMOUNT", "REFERENCE"],
            self.0.iter().map(|transfer| {
                [
                    transfer.posted_at.to_string(),
                    transfer.kind.clone(),
                    transfer.debit_account.clone(),
                    transfer.credit_account.clone(),
                    transfer.amount.to_string(),
                    printable(&transfer.reference),
                ]
            }),
        )
    }
}

#[derive(Serialize)]
struct Written {
    file: PathBuf,
    /// Of an export.
    #[serde(skip_serializing_if = "Option::is_none")]
    transfers: Option<u64>,
    bytes: u64,
}

impl Show for Written {
    fn text(&self) -> String {
        let mut lines = vec![("file", self.file.display().to_string())];
        lines.extend(
            self.transfers
                .map(|transfers| ("transfers", transfers.to_string())),
        );
        lines.push(("bytes", self.bytes.to_string()));
        pairs(lines)
    }
}

pub(crate) async fn run(command: LedgerCommand, stack: &Stack, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        LedgerCommand::Show(args) => show(args, stack, output).await?,
        LedgerCommand::Export(args) => export(args, stack, output).await?,
        LedgerCommand::Backup(args) => backup(args, stack, output).await?,
        LedgerCommand::Verify(args) => return verify(args, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Hands over the transfers that were asked for, in the order they come.
pub(crate) async fn read(
    stack: &Stack,
    request: ReadTransfersRequest,
    mut take: impl FnMut(WireTransfer) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut pages = stack
        .ledger()
        .await?
        .read_transfers(request)
        .await
        .map_err(told)?
        .into_inner();
    while let Some(page) = pages.message().await.map_err(told)? {
        page.transfers.into_iter().try_for_each(&mut take)?;
    }
    Ok(())
}

async fn show(args: ShowArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let request = ReadTransfersRequest {
        newest_first: true,
        limit: args.limit,
        ..args.which.request()
    };
    let mut transfers = Vec::new();
    read(stack, request, |transfer| {
        transfers.push(Transfer::from(transfer));
        Ok(())
    })
    .await?;
    output.show(&Transfers(transfers))
}

async fn export(args: ExportArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let request = args.which.request();
    if args.file == Path::new("-") {
        write_transfers(stack, request, args.format, io::stdout().lock()).await?;
        return Ok(());
    }
    let partial = Partial::create(args.file)?;
    let transfers = write_transfers(stack, request, args.format, &partial.file).await?;
    partial.finish(Some(transfers), output)
}

/// How many there were.
async fn write_transfers(
    stack: &Stack,
    request: ReadTransfersRequest,
    format: ExportFormat,
    to: impl Write,
) -> anyhow::Result<u64> {
    let mut to = BufWriter::new(to);
    let mut count = 0;
    match format {
        ExportFormat::Csv => {
            let mut rows = csv::Writer::from_writer(&mut to);
            read(stack, request, |transfer| {
                count += 1;
                rows.serialize(Transfer::from(transfer))
                    .context("failed to write")
            })
            .await?;
            rows.flush().context("failed to write")?;
        }
        ExportFormat::JsonLines => {
            read(stack, request, |transfer| {
                count += 1;
                serde_json::to_writer(&mut to, &Transfer::from(transfer)).context("failed to write")?;
                to.write_all(b"\n").context("failed to write")
            })
            .await?;
        }
    }
    to.flush().context("failed to write")?;
    Ok(count)
}

async fn backup(args: BackupArgs, stack: &Stack, output: Output) -> anyhow::Result<()> {
    let mut chunks = stack
        .ledger()
        .await?
        .backup(BackupRequest {})
        .await
        .map_err(told)?
        .into_inner();
    let partial = Partial::create(args.file)?;
    while let Some(message) = chunks.message().await.map_err(told)? {
        (&partial.file)
            .write_all(&message.chunk)
            .context("failed to write")?;
    }
    partial.finish(None, output)
}

/// A file under another name until it is whole.
struct Partial {
    file: File,
    path: tempfile::TempPath,
    wanted: PathBuf,
}

impl Partial {
    fn create(wanted: PathBuf) -> anyhow::Result<Self> {
        let name = wanted.display().to_string();
        ensure!(
            !wanted.exists(),
            "`{name}` exists already (hint: name another file, or remove it)"
        );
        let folder = match wanted.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let file = tempfile::NamedTempFile::new_in(folder);
        let (file, path) = file
            .with_context(|| format!("failed to write `{name}`"))?
            .into_parts();
        Ok(Self { file, path, wanted })
    }

    fn finish(self, transfers: Option<u64>, output: Output) -> anyhow::Result<()> {
        let name = self.wanted.display().to_string();
        let failed = || format!("failed to write `{name}`");
        self.file.sync_all().with_context(failed)?;
        let bytes = self.file.metadata().with_context(failed)?.len();
        self.path.persist_noclobber(&self.wanted).with_context(failed)?;
        output.show(&Written {
            file: self.wanted,
            transfers,
            bytes,
        })
    }
}

async fn verify(args: VerifyArgs, output: Output) -> anyhow::Result<ExitCode> {
    let name = args.file.display().to_string();
    std::fs::metadata(&args.file).with_context(|| format!("failed to read `{name}`"))?;
    let proof = Reader::new(args.file).proof().await;
    let proof = proof.with_context(|| format!("`{name}` is not a ledger"))?;
    let audit = Audit::from(Vec::from(audit::of_ledger(&proof)));
    output.show(&audit)?;
    Ok(audit.exit_code())
}
