//! Records as POST requests to one address: one after the other, tried again while there is hope.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hmac::{Hmac, Mac};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;

use super::{Kinds, Reader};
use crate::config::WebhookSettings;
use crate::logic::record::EventRecord;
use crate::net::http::{HttpBounds, HttpError, HttpRequest, request};
use crate::tls;

/// Attempts for one record.
const ATTEMPTS_MAX: u32 = 10;
/// A record that could not be delivered for so long is given up.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Before the second attempt; doubles with each.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Of an answer, which nobody reads.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const SIGNATURE: HeaderName = HeaderName::from_static("handover-signature");
const EVENT: HeaderName = HeaderName::from_static("handover-event");
const ID: HeaderName = HeaderName::from_static("handover-id");

/// Delivers records; to be run.
#[derive(Debug)]
pub struct Webhook {
    /// Where to, and how.
    pub settings: WebhookSettings,
    /// Certificates; there exactly if the address is `https://`.
    pub tls: Option<tls::Client>,
    /// Which records.
    pub kinds: Kinds,
    /// Its place.
    pub reader: Reader,
}

/// What came of one attempt.
enum Attempt {
    Taken,
    /// It may be taken later.
    Later(String),
    /// It never will.
    Never(String),
}

impl Webhook {
    /// Delivers until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut is_failing = false;
        while let Some(record) = self.reader.next().await {
            if !self.kinds.contain(record.happening.kind) {
                continue;
            }
            let delivered = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                delivered = self.deliver(&record, &mut is_failing) => delivered,
            };
            if !delivered {
                self.reader.dropped();
            }
        }
    }

    /// Tries until it is taken, or there is no hope.
    async fn deliver(&self, record: &Arc<EventRecord>, is_failing: &mut bool) -> bool {
        let body = Bytes::from(record.json());
        let began = Instant::now();
        for attempt in 0..ATTEMPTS_MAX {
            let (problem, is_over) = match self.attempt(record, &body).await {
                Attempt::Taken => {
                    if std::mem::take(is_failing) {
                        tracing::info!(url = %self.settings.url, "the webhook takes records again");
                    }
                    return true;
                }
                Attempt::Later(problem) => (problem, attempt + 1 == ATTEMPTS_MAX || began.elapsed() > AGE_MAX),
                Attempt::Never(problem) => (problem, true),
            };
            if !std::mem::replace(is_failing, true) {
                let url = &self.settings.url;
                tracing::warn!(%url, problem, is_tried_again = !is_over, "the webhook does not take a record");
            }
            if is_over {
                return false;
            }
            tokio::time::sleep(pause(attempt)).await;
        }
        false
    }

    async fn attempt(&self, record: &EventRecord, body: &Bytes) -> Attempt {
        let post = HttpRequest {
            method: Method::POST,
            url: &self.settings.url,
            headers: self.headers(record, body),
            body: body.clone(),
        };
        let bounds = HttpBounds { timeout: self.settings.timeout, body_bytes_max: ANSWER_BYTES_MAX };
        let tls = self.tls.as_ref().map(|tls| tls.configs().data);
        match request(post, tls, bounds).await {
            Ok((status, _)) => judge(status),
            // It said yes before it said too much.
            Err(HttpError::TooLong(_)) => Attempt::Taken,
            Err(error) => Attempt::Later(error.to_string()),
        }
    }

    fn headers(&self, record: &EventRecord, body: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (EVENT, HeaderValue::from_static(record.happening.kind.label())),
            (ID, HeaderValue::from(record.id)),
        ];
        let signature = self.settings.secret.as_ref().map(|secret| signature(secret.as_bytes(), body));
        let signature = signature.and_then(|signature| HeaderValue::try_from(signature).ok());
        headers.extend(signature.map(|signature| (SIGNATURE, signature)));
        headers
    }
}

fn judge(status: StatusCode) -> Attempt {
    let problem = || format!("it answered {status}");
    match status.as_u16() {
        200..=299 => Attempt::Taken,
        408 | 429 => Attempt::Later(problem()),
        300..=399 => Attempt::Never(format!("it answered {status}, and redirects are not followed")),
        400..=499 => Attempt::Never(problem()),
        _ => Attempt::Later(problem()),
    }
}

/// `sha256=` and the HMAC-SHA256 of the body in hex.
fn signature(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// Twice as long after each attempt, shifted at random by up to a half.
fn pause(attempt: u32) -> Duration {
    let plain = PAUSE_FIRST.saturating_mul(1 << attempt.min(16)).min(PAUSE_MAX);
    plain.mul_f64(0.5 + fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_everybody_else() {
        // RFC 4231, test case 2.
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature(b"Jefe", b"what do ya want for nothing?"), expected);
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for (attempt, least, most) in [(0, 250, 750), (1, 500, 1_500), (5, 8_000, 24_000), (9, 15_000, 45_000)] {
            for _ in 0..100 {
                let millis = pause(attempt).as_millis();
                assert!((least..=most).contains(&millis), "{attempt}: {millis}");
            }
        }
    }

    #[test]
    fn what_is_tried_again() {
        for (status, expected) in
            [(200, 't'), (204, 't'), (301, 'n'), (400, 'n'), (404, 'n'), (408, 'l'), (429, 'l'), (500, 'l'), (503, 'l')]
        {
            let found = match judge(StatusCode::from_u16(status).unwrap()) {
                Attempt::Taken => 't',
                Attempt::Later(_) => 'l',
                Attempt::Never(_) => 'n',
            };
            assert_eq!(found, expected, "{status}");
        }
    }
}
