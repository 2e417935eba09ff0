//! HTTP: `GET /metrics` and nothing else.

use super::{page, resident_bytes};
use crate::loops::Loops;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Scrapes served at one time; further ones wait in the listen queue.
const CONNECTIONS_MAX: usize = 16;
const HEADER_WITHIN: Duration = Duration::from_secs(2);
/// A connection in all: header, answer of the loops, transfer.
const CONNECTION_WITHIN: Duration = Duration::from_secs(5);
const HEADER_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, thiserror::Error)]
#[error("cannot listen for metrics on {address}: {source} (choose another [metrics] listen, or \"off\")")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// The bound listener, before the runtime that serves it.
pub struct MetricsListener {
    listener: std::net::TcpListener,
}

impl MetricsListener {
    /// Binds the address.
    ///
    /// # Errors
    /// When it is taken or not on this host.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener })
    }

    /// Where it listens (the port, when 0 was asked for).
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the task is dropped.
    ///
    /// # Errors
    /// When the socket cannot be registered with the runtime.
    pub async fn serve(&self, loops: Loops) -> std::io::Result<()> {
        let listener = TcpListener::from_std(self.listener.try_clone()?)?;
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return Ok(());
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a metrics connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let loops = loops.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| respond(request, &loops));
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_WITHIN)
                    .max_buf_size(HEADER_BYTES_MAX)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                match tokio::time::timeout(CONNECTION_WITHIN, connection).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "a metrics connection ended early"),
                    Err(_) => debug!("a metrics connection took too long"),
                }
                drop(slot);
            });
        }
    }
}

async fn respond(request: Request<Incoming>, loops: &Loops) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let text = page(&loops.status().await, &(loops.datapath)(), loops.started_unix_seconds, resident_bytes());
            Response::new(Full::new(Bytes::from(text)))
        }
        (_, "/metrics") => {
            let mut response = Response::new(Full::new(Bytes::from_static(b"only GET\n")));
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return Ok(response);
        }
        (_, _) => {
            let mut response = Response::new(Full::new(Bytes::from_static(b"see /metrics\n")));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
    };
    let format = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, format);
    Ok(response)
}
