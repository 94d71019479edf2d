//! One HTTP/1.1 request over a connection of its own, bounded in time and size. Redirects are not followed: an answer
//! must come from whom the operator named.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::timeout;

use super::dial::connect;
use super::stream::Stream;
use super::tls::TlsStream;
use crate::config::HttpUrl;

const AGENT: &str = concat!("handover/", env!("CARGO_PKG_VERSION"));
/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// Unacknowledged bytes are given up after so long.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone, Debug)]
pub struct HttpRequest<'a> {
    /// `GET`, `POST` …
    pub method: Method,
    /// Of whom.
    pub url: &'a HttpUrl,
    /// Beside `Host`, `User-Agent`, `Connection` and the length, which are set here.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Empty for none.
    pub body: Bytes,
}

/// How long it may take, and how much may come back.
#[derive(Clone, Copy, Debug)]
pub struct HttpBounds {
    /// From looking up the name to the last byte of the answer.
    pub timeout: Duration,
    /// Of the answer's body.
    pub body_bytes_max: usize,
}

/// Why there is no answer, in words for operators.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection, or the other side is not who it should be.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// An `https://` address without certificates to verify it with.
    #[error("no certificates are loaded for an https address")]
    NoCertificates,
    /// It took too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It answered something that is no HTTP, or broke off.
    #[error("no whole answer: {0}")]
    Broken(String),
    /// More came than is read.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// Asks once: connects, verifies, sends, reads the whole answer, closes. Any status is an answer; whether it is a good
/// one the caller decides. `tls` is needed for `https://` and ignored for `http://`.
///
/// # Errors
/// There was no whole answer.
pub async fn request(
    request: HttpRequest<'_>,
    tls: Option<Arc<ClientConfig>>,
    bounds: HttpBounds,
) -> Result<(StatusCode, Bytes), HttpError> {
    let exchange = async {
        let stream = open(request.url, tls).await?;
        exchange(stream, request, bounds.body_bytes_max).await
    };
    timeout(bounds.timeout, exchange).await.unwrap_or(Err(HttpError::Late(bounds.timeout)))
}

async fn open(url: &HttpUrl, tls: Option<Arc<ClientConfig>>) -> Result<Stream, HttpError> {
    let stream = connect(&url.address()).await.map_err(HttpError::Connect)?;
    stream.set_options(USER_TIMEOUT);
    let Stream::Tcp(socket) = stream else { return Ok(stream) };
    if !url.is_secure {
        return Ok(Stream::Tcp(socket));
    }
    let config = tls.ok_or(HttpError::NoCertificates)?;
    let name = ServerName::try_from(url.host.clone()).map_err(|error| HttpError::Connect(io::Error::other(error)))?;
    let stream = TlsStream::connect(socket, config, name).await.map_err(HttpError::Connect)?;
    Ok(Stream::Tls(Box::new(stream)))
}

async fn exchange(
    stream: Stream,
    request: HttpRequest<'_>,
    body_bytes_max: usize,
) -> Result<(StatusCode, Bytes), HttpError> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let mut connection = pin!(connection);
    let request = prepare(request)?;
    let mut answer = pin!(async move {
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), body_bytes_max).collect().await;
        let body = body.map_err(|error| of_body(&*error, body_bytes_max))?;
        Ok((status, body.to_bytes()))
    });
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection has ended: what it brought is there, or is never coming.
        _ = &mut connection => answer.await,
    }
}

fn prepare(request: HttpRequest<'_>) -> Result<Request<Full<Bytes>>, HttpError> {
    let wrong = |error: &dyn Error| HttpError::Broken(error.to_string());
    let mut whole = Request::builder()
        .method(request.method)
        .uri(&request.url.target)
        .header(HOST, request.url.authority())
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Full::new(request.body))
        .map_err(|error| wrong(&error))?;
    whole.headers_mut().extend(request.headers);
    Ok(whole)
}

fn of_body(error: &(dyn Error + Send + Sync + 'static), body_bytes_max: usize) -> HttpError {
    if error.is::<LengthLimitError>() { HttpError::TooLong(body_bytes_max) } else { broken(error) }
}

/// hyper's errors say what failed; the cause below them says why.
fn broken(error: &(dyn Error + 'static)) -> HttpError {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    HttpError::Broken(format!("{error}{cause}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const BOUNDS: HttpBounds = HttpBounds { timeout: Duration::from_secs(20), body_bytes_max: 64 };

    /// Asks a server that reads until `until` and then says `answer`; returns what it read, too.
    async fn asked(
        until: &[u8],
        answer: &[u8],
        bounds: HttpBounds,
    ) -> (String, Result<(StatusCode, Bytes), HttpError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = HttpUrl::parse(&format!("http://{address}/a?b=c")).unwrap();
        let headers = vec![(HeaderName::from_static("x-mark"), HeaderValue::from_static("7"))];
        let post = HttpRequest { method: Method::POST, url: &url, headers, body: Bytes::from_static(b"{\"k\":1}") };
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(until) {
                assert_ne!(socket.read_buf(&mut read).await.unwrap(), 0);
            }
            socket.write_all(answer).await.unwrap();
            if answer.is_empty() {
                // A server that hangs: it holds on until the client goes.
                let _ = socket.read_buf(&mut read).await;
            }
            String::from_utf8(read).unwrap()
        };
        let (read, result) = tokio::join!(serve, request(post, None, bounds));
        (read, result)
    }

    #[tokio::test]
    async fn a_request_is_whole_and_so_is_its_answer() {
        let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\ndone";
        let (read, result) = asked(b"{\"k\":1}", answer, BOUNDS).await;
        assert_eq!(result.unwrap(), (StatusCode::ACCEPTED, Bytes::from_static(b"done")));
        let read = read.to_lowercase();
        assert!(read.starts_with("post /a?b=c http/1.1\r\n"), "{read}");
        for header in
            ["host: 127.0.0.1:", "user-agent: handover/", "connection: close", "content-length: 7", "x-mark: 7"]
        {
            assert!(read.contains(&format!("\r\n{header}")), "{header} in {read}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_a_length_ends_with_the_connection() {
        let (_, result) = asked(b"}", b"HTTP/1.1 200 OK\r\n\r\nrest", BOUNDS).await;
        assert_eq!(result.unwrap().1, "rest");
    }

    #[tokio::test]
    async fn redirects_are_answers() {
        let answer = b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(asked(b"}", answer, BOUNDS).await.1.unwrap().0, StatusCode::FOUND);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_said() {
        let long = [b"HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n".as_slice(), &[b'x'; 65]].concat();
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'x'; 4 * HEAD_BYTES_MAX]].concat();
        let hurry = HttpBounds { timeout: Duration::from_secs(1), ..BOUNDS };
        for (answer, bounds, expected) in [
            (long.as_slice(), BOUNDS, "the answer is longer than 64 bytes"),
            (&endless, BOUNDS, "no whole answer"),
            (b"+PONG\r\n", BOUNDS, "no whole answer"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbroken", BOUNDS, "no whole answer"),
            (b"", hurry, "no answer within 1s"),
        ] {
            let error = asked(b"}", answer, bounds).await.1.expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn nobody_there_and_no_certificates_are_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ask = async |text: String| {
            let url = HttpUrl::parse(&text).unwrap();
            let get = HttpRequest { method: Method::GET, url: &url, headers: Vec::new(), body: Bytes::new() };
            request(get, None, BOUNDS).await.expect_err("nobody answers").to_string()
        };
        assert!(ask(format!("https://{address}/")).await.contains("no certificates"));
        drop(listener);
        assert!(ask(format!("http://{address}/")).await.starts_with("cannot connect: "));
    }
}
