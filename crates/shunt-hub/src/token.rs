//! Shared access signatures.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::time::Instant;

use crate::{options::Key, topic::encode, workload::WorkloadError};

/// A token, which is the MQTT password and the `Authorization` of the hub's HTTPS calls.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// When to have the next one: at 80 % of the lifetime, up to 5 % earlier so that a fleet does not renew in step.
    pub(crate) renew_at: Instant,
    pub(crate) ends_at: Instant,
}

/// Signs tokens for one identity.
#[derive(Clone)]
pub(crate) struct Signer {
    /// The encoded resource; it is signed in this form and sent in this form.
    resource: String,
    key: Key,
    lifetime: Duration,
}

// === impl Signer ===

impl Signer {
    pub(crate) fn new(resource: String, key: Key, lifetime: Duration) -> Self {
        Self { resource, key, lifetime }
    }

    /// A fresh token.
    pub(crate) async fn token(&self) -> Result<Token, WorkloadError> {
        let now = Instant::now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Rounded up, so that it does not end before we think it does.
        let expiry = (unix + self.lifetime).as_secs() + 1;
        let text = self.sign(expiry).await?;
        let part = 0.80 - 0.05 * rand::random::<f64>();
        Ok(Token { text, renew_at: now + self.lifetime.mul_f64(part), ends_at: now + self.lifetime })
    }

    async fn sign(&self, expiry: u64) -> Result<String, WorkloadError> {
        let data = format!("{}\n{expiry}", self.resource);
        let digest = match &self.key {
            Key::Workload(workload) => workload.sign(data.as_bytes()).await?,
            Key::Shared(key) => hmac_sha256(key, data.as_bytes()),
        };
        let signature = encode(&STANDARD.encode(digest));
        Ok(format!("SharedAccessSignature sr={}&sig={signature}&se={expiry}", self.resource))
    }
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> Vec<u8> {
    // A key of any length is taken, so there is nothing to report.
    Hmac::<Sha256>::new_from_slice(key).map_or_else(
        |_| Vec::new(),
        |mut mac| {
            mac.update(data);
            mac.finalize().into_bytes().to_vec()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Identity;

    #[tokio::test]
    async fn tokens_are_signed_as_the_sdks_sign_them() {
        let identity = Identity {
            hub: "hub.azure-devices.net".into(),
            device: "d".into(),
            module: Some("$edgeHub".into()),
        };
        let key = Key::Shared(STANDARD.decode("c2hhcmVkLWtleQ==").unwrap().into());
        let signer = Signer::new(identity.resource(), key, Duration::from_hours(1));
        // Computed with Python: base64(hmac(b"shared-key", (sr + "\n1700000000").encode(), sha256)), quoted.
        assert_eq!(
            signer.sign(1_700_000_000).await.unwrap(),
            "SharedAccessSignature sr=hub.azure-devices.net%2Fdevices%2Fd%2Fmodules%2F%24edgeHub\
             &sig=%2FU6Ix7E86C%2FfMuCes0P7jmOP%2BReQw5EAcCcmt185w2E%3D&se=1700000000"
        );
        let token = signer.token().await.unwrap();
        let left = token.renew_at - Instant::now();
        assert!(left > Duration::from_secs(2690) && left < Duration::from_secs(2881), "{left:?}");
    }
}
