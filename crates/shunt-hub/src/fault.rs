//! Why there is no connection.

use std::{error::Error, io};

use rumqttc::mqttbytes::v4::ConnectReturnCode;

use crate::{tls::CertificatesError, workload::WorkloadError};

/// Why a connection could not be made, or ended unplanned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error("the trusted certificates: {0}")]
    Certificates(CertificatesError),
    #[error("tls cannot be set up")]
    TlsSetUp(#[source] rustls::Error),
    #[error("http cannot be set up")]
    HttpSetUp(#[source] reqwest::Error),
    #[error("{0:?} is no name that a certificate can prove")]
    ServerName(String),
    #[error("{0} cannot be reached")]
    Unreachable(String, #[source] io::Error),
    #[error("the tls handshake with {0} failed")]
    Handshake(String, #[source] io::Error),
    #[error("no answer in time: {0}")]
    Late(&'static str),
    #[error("the hub refused the connection: {}", refusal(*.0))]
    Refused(ConnectReturnCode),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("the hub closed the connection")]
    ClosedByHub,
    #[error("the hub does not speak mqtt")]
    Protocol(#[source] rumqttc::mqttbytes::Error),
    #[error("the hub sent an unexpected {0}")]
    Unexpected(&'static str),
    #[error("{0} messages on our inputs wait without being taken")]
    InputsFull(usize),
    #[error("a message on an input was dropped without acknowledgement, so it is fetched again")]
    InputDropped,
}

/// What the codes mean at edgeHub.
fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "no reason given",
        ConnectReturnCode::RefusedProtocolVersion => "it does not take mqtt 3.1.1",
        ConnectReturnCode::BadClientId => "it does not take our client id",
        ConnectReturnCode::ServiceUnavailable => "it is not available, or cannot make sense of our user name",
        ConnectReturnCode::BadUserNamePassword => "bad user name or password",
        ConnectReturnCode::NotAuthorized => {
            "not authorized: the identity is unknown, the token is wrong or expired, or our clock is wrong"
        }
    }
}

// === impl Fault ===

impl Fault {
    /// The fault with its causes, in one line.
    pub(crate) fn reason(&self) -> String {
        chain(self)
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
