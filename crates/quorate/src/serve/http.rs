//! `/metrics` and `/health` over HTTP, on a thread of their own.
//!
//! What they tell is a snapshot of all workers, taken between their turns; it is kept for a moment
//! ([`FRESH`]), so that however often somebody asks, the workers are asked seldom. A connection has
//! a time to send its request and a time to be done, and there are only so many.

mod metrics;

use crate::serve::inbox::{Inboxes, Input};
use crate::serve::observed::Observed;
use crate::serve::{ServeError, spawn};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use quorate_node::status::NodeStatus;
use std::convert::Infallible;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Semaphore, oneshot};

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 32;

/// How long a client may take to send the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may last, however slowly its client reads.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(30);

/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long a worker may take to answer. A turn takes milliseconds; one that takes this long has
/// all its clients wait.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// For how long a snapshot is told again.
const FRESH: Duration = Duration::from_millis(100);

/// How long accepting pauses after it failed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Where snapshots come from.
pub(crate) struct Source {
    pub(crate) config: Arc<quorate_node::Config>,
    pub(crate) inboxes: Inboxes,
    pub(crate) observed: Arc<Observed>,
}

/// Starts the thread; it ends with the process.
pub(crate) fn start(listener: TcpListener, source: Source) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Thread)?;
    spawn("http".into(), move || {
        let server = Rc::new(Server { source, last: Mutex::const_new(None) });
        let local = tokio::task::LocalSet::new();
        runtime.block_on(local.run_until(server.accept(listener)));
    })?;
    Ok(())
}

struct Server {
    source: Source,
    /// The last snapshot, and when it was taken.
    last: Mutex<Option<(Instant, Arc<NodeStatus>)>>,
}

impl Server {
    async fn accept(self: Rc<Self>, listener: TcpListener) {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(listener));
        let listener = listener.expect("a listening socket can be polled");
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let server = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                let service = hyper::service::service_fn(|request| server.answer(request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_PATIENCE)
                    .max_buf_size(HEAD_BYTES_MAX)
                    .serve_connection(TokioIo::new(stream), service);
                // Whoever sends nonsense, or is too slow, is its own trouble.
                let _ = tokio::time::timeout(CONNECTION_PATIENCE, connection).await;
                drop(place);
            });
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let known = matches!(request.uri().path(), "/metrics" | "/health" | "/health/live");
        if !known {
            let text = "There is /metrics, /health and /health/live here.\n";
            return Ok(reply(StatusCode::NOT_FOUND, TEXT, text.into()));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response =
                reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Only GET and HEAD.\n".into());
            response.headers_mut().insert(ALLOW, "GET, HEAD".parse().expect("a plain word"));
            return Ok(response);
        }
        let status = self.snapshot().await;
        Ok(match (request.uri().path(), status) {
            ("/metrics", Ok(status)) => reply(StatusCode::OK, METRICS, metrics::text(&status)),
            ("/metrics", Err(silent)) => {
                reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{silent}\n"))
            }
            ("/health", Ok(status)) => health(status.node(), &reasons(&status), &warnings(&status)),
            (_, Ok(status)) => health(status.node(), &[], &[]),
            (_, Err(silent)) => {
                let node = self.source.config.cluster.as_ref().map_or(0, |c| c.node);
                health(node, &[silent], &[])
            }
        })
    }

    /// How the node is, or which worker does not answer.
    async fn snapshot(&self) -> Result<Arc<NodeStatus>, String> {
        let mut last = self.last.lock().await;
        if let Some((at, status)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(status));
        }
        let Source { config, inboxes, observed } = &self.source;
        let ask = |worker| {
            let (sender, receiver) = oneshot::channel();
            inboxes.send(worker, Input::Status(sender));
            receiver
        };
        let deadline = tokio::time::Instant::now() + ANSWER_PATIENCE;
        let mut workers = Vec::new();
        for (worker, answer) in (0..inboxes.len()).map(ask).enumerate() {
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(status)) => workers.push(status),
                Ok(Err(_)) => return Err("the node has stopped".into()),
                Err(_) => return Err(format!("worker {worker} does not answer")),
            }
        }
        let status = NodeStatus::new(Arc::clone(config), workers, Some(observed.facts()));
        let status = Arc::new(status.expect("a node has a worker"));
        *last = Some((Instant::now(), Arc::clone(&status)));
        Ok(status)
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

fn reply(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .header(CACHE_CONTROL, "no-store")
        .body(Full::new(body.into()))
        .expect("the headers are plain words")
}

fn health(node: u64, reasons: &[String], warnings: &[String]) -> Response<Full<Bytes>> {
    let (code, status) = if reasons.is_empty() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    let body = serde_json::json!({
        "status": status, "node": node, "reasons": reasons, "warnings": warnings,
    });
    reply(code, JSON, format!("{body}\n"))
}

/// Why clients should go elsewhere.
fn reasons(status: &NodeStatus) -> Vec<String> {
    let mut reasons = Vec::new();
    if status.workers.stopping {
        reasons.push("the node is about to stop".into());
    }
    if !status.has_quorum() {
        reasons.push("the node reaches no majority of the nodes".into());
    }
    let shards = status.workers.shards.len();
    match status.leaderless() {
        0 => {}
        count => reasons.push(format!("{count} of {shards} shards have no leader")),
    }
    reasons
}

/// What is wrong though the node serves.
fn warnings(status: &NodeStatus) -> Vec<String> {
    let mut warnings = Vec::new();
    if status.workers.disk_full {
        warnings.push("the disk is full: writes are refused".into());
    }
    if status.workers.throttled {
        warnings.push("the tables are far behind the journal: writes wait".into());
    }
    for peer in status.workers.peers.iter().filter(|peer| !peer.up) {
        warnings.push(format!("no link with node {}", peer.node));
    }
    warnings
}
