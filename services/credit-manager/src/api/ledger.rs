//! Accountants' side: the ledger's history, statements and copies.

use std::fs::File;
use std::io::Read as _;
use std::pin::Pin;

use access::Caller;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use proto::credit::v1 as wire;
use proto::credit::v1::ledger_service_server::LedgerService;
use proto::{InvalidField, parse};
use tonic::{Request, Response, Status};
use tracing::info;
use units::{Timestamp, UserName};

use super::accounts::{optional, wire_transfer};
use super::status::{from_command, from_read};
use crate::ledger::history::{Filter, Order, Period};
use crate::ledger::reader::ReadError;
use crate::ledger::{Kind, Reader};
use crate::writer::Writer;

/// Of a copy, in one message.
const CHUNK_BYTES: usize = 256 << 10;

pub struct LedgerApi {
    pub writer: Writer,
    pub reader: Reader,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl LedgerService for LedgerApi {
    type ReadTransfersStream = Streamed<wire::ReadTransfersResponse>;

    async fn read_transfers(
        &self,
        request: Request<wire::ReadTransfersRequest>,
    ) -> Result<Response<Self::ReadTransfersStream>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let filter = Filter {
            user: caller.narrow(optional("user", &message.user)?)?,
            kind: kind(&message.kind)?,
            reference: Some(message.reference).filter(|text| !text.is_empty()),
            period: period(message.from_ms, message.until_ms),
        };
        let order = if message.newest_first {
            Order::NewestFirst
        } else {
            Order::OldestFirst
        };
        let limit = (message.limit > 0).then_some(u64::from(message.limit));
        let pages = self
            .reader
            .history(filter, order, message.through_sequence, limit)
            .await
            .map_err(|err| from_read(&err))?;
        let pages = pages
            .map_ok(|transfers| wire::ReadTransfersResponse {
                transfers: transfers.iter().map(wire_transfer).collect(),
            })
            .map_err(|err| from_read(&err));
        Ok(Response::new(pages.boxed()))
    }

    async fn get_statement(
        &self,
        request: Request<wire::GetStatementRequest>,
    ) -> Result<Response<wire::GetStatementResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let user: UserName = parse("user", &message.user)?;
        caller.check_owner(&user)?;
        let known = user.clone();
        self.writer
            .call(move |desk| Ok(desk.bank.view(&known)?))
            .await
            .map_err(|err| from_command(&err))?;
        let statement = self
            .reader
            .statement(user, period(message.from_ms, message.until_ms))
            .await
            .map_err(|err| from_read(&err))?;
        Ok(Response::new(wire::GetStatementResponse {
            opening_halfords: statement.opening.halfords(),
            closing_halfords: statement.closing.halfords(),
            through_sequence: statement.through,
        }))
    }

    type BackupStream = Streamed<wire::BackupResponse>;

    async fn backup(
        &self,
        _request: Request<wire::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let copy = self.reader.copy().await.map_err(|err| from_read(&err))?;
        info!("backup begun");
        let chunks = stream::try_unfold(copy, |copy| async move {
            let read = tokio::task::spawn_blocking(move || next_chunk(copy)).await;
            Ok::<_, ReadError>(read??)
        });
        let chunks = chunks
            .map_ok(|chunk| wire::BackupResponse { chunk: chunk.into() })
            .map_err(|err| from_read(&err));
        Ok(Response::new(chunks.boxed()))
    }
}

/// The next part of a file, and the file for those after it.
fn next_chunk(file: File) -> std::io::Result<Option<(Vec<u8>, File)>> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let limit = u64::try_from(CHUNK_BYTES).unwrap_or(u64::MAX);
    let read = (&file).take(limit).read_to_end(&mut chunk)?;
    Ok((read > 0).then_some((chunk, file)))
}

fn kind(word: &str) -> Result<Option<Kind>, InvalidField> {
    if word.is_empty() {
        return Ok(None);
    }
    let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
    known.map(Some).ok_or_else(|| {
        let kinds = Kind::ALL.map(Kind::as_str).join(", ");
        InvalidField::new(
            "kind",
            format!("`{word}` is not a kind of transfer (one of: {kinds})"),
        )
    })
}

/// 0 stands for no bound.
fn period(from_ms: i64, until_ms: i64) -> Period {
    let bound = |ms: i64| (ms != 0).then_some(Timestamp::from_unix_ms(ms));
    Period {
        from: bound(from_ms),
        until: bound(until_ms),
    }
}
