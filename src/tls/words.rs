//! What went wrong in a handshake, for operators: what was found, and what to do.

use rustls::server::VerifierBuilderError;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::certificate::date;

/// A failed handshake in words.
#[must_use]
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => format!("TLS: the certificate {}", of_certificate(error)),
        Error::AlertReceived(alert) => format!("TLS: the other side ended it: {}", of_alert(*alert)),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "TLS: what came is no TLS; does the other side speak it on this port?".to_owned()
        }
        Error::NoCertificatesPresented => "TLS: no certificate was shown, and one is required".to_owned(),
        error => format!("TLS: {error}"),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    let day = |time: &rustls::pki_types::UnixTime| date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("expired on {}: renew it", day(not_after))
        }
        CertificateError::Expired => "has expired: renew it".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is valid from {} on only: compare the clocks", day(not_before))
        }
        CertificateError::UnknownIssuer => {
            "is signed by nobody who is trusted here: name the authority's certificate in tls.ca".to_owned()
        }
        CertificateError::BadSignature => {
            "is signed by another authority of the same name: compare the server's with tls.ca".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "is for another name: {} was expected, it has {}; set tls.server_name, or have it reissued",
            expected.to_str(),
            if presented.is_empty() { "none".to_owned() } else { presented.join(", ") }
        ),
        CertificateError::NotValidForName => "is for another name: set tls.server_name, or have it reissued".to_owned(),
        // What webpki says of a certificate that `openssl req -x509` makes for a server: it is an authority's.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "is that of an authority, not of a server: sign the server's own with it".to_owned()
        }
        error => format!("cannot be accepted: {error}"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    let advice = match alert {
        AlertDescription::CertificateRequired => "it asks for a certificate of ours: set tls.cert and tls.key",
        AlertDescription::UnknownCA => "it does not trust the authority of the certificate",
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => "it does not accept the certificate",
        AlertDescription::CertificateExpired => "the certificate has expired",
        AlertDescription::HandshakeFailure => "no common ground; it may ask for a certificate (tls.cert, tls.key)",
        AlertDescription::ProtocolVersion => "no common version; TLS 1.2 and 1.3 are spoken here",
        _ => "no more is known",
    };
    format!("{alert:?} ({advice})")
}

pub(super) fn of_verifier(error: &VerifierBuilderError) -> String {
    format!("cannot be used: {error}")
}
