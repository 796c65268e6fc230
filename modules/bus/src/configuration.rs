//! The broker's configuration file.

use std::{fmt::Write as _, path::Path};

use crate::BusSettings;

/// The files that the configuration names, in the private folder.
pub(crate) const ACCESS: &str = "access";
pub(crate) const PLAIN_ACCESS: &str = "plain-access";
pub(crate) const AUTHORITIES: &str = "authorities.pem";
pub(crate) const CERTIFICATE: &str = "certificate.pem";
pub(crate) const KEY: &str = "key.pem";
/// What its TLS library reads before it, by the variable `OPENSSL_CONF`.
pub(crate) const OPENSSL: &str = "openssl.cnf";
/// No tickets: who shows one is let in without a certificate, as whom the ticket was given to. Mosquitto cannot say
/// that itself. The other lines are those that Debian sets.
pub(crate) const OPENSSL_TEXT: &str = "\
openssl_conf = settings

[settings]
ssl_conf = ssl

[ssl]
system_default = tls

[tls]
MinProtocol = TLSv1.2
CipherString = DEFAULT@SECLEVEL=2
NumTickets = 0
";

/// The configuration, in the parts that a running broker takes at a reload, and those for which it must be restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Configuration {
    reloaded: String,
    fixed: String,
}

// === impl Configuration ===

impl Configuration {
    /// With its files in `folder`, and what it keeps in `data`.
    pub(crate) fn new(settings: &BusSettings, folder: &Path, data: &Path) -> Self {
        let reloaded = format!(
            "# A subscriber that does not read may not take the broker's memory: what is beyond is dropped.\n\
             max_queued_messages {}\n\
             max_queued_bytes {}\n\
             max_inflight_messages {}\n\
             memory_limit {}\n",
            settings.max_queued_messages,
            settings.max_queued_bytes,
            settings.max_inflight_messages,
            settings.memory_limit,
        );
        let mut fixed = format!(
            "per_listener_settings true\n\
             # Without this, small packets wait for the acknowledgement of the one before: 40 ms and more.\n\
             set_tcp_nodelay true\n\
             max_packet_size {}\n\
             queue_qos0_messages false\n\
             sys_interval 5\n\
             log_dest stderr\n\
             log_timestamp false\n\
             log_type error\n\
             log_type warning\n\
             log_type notice\n\
             log_type information\n\
             connection_messages true\n\
             persistence {}\n",
            settings.max_packet_bytes, settings.persistence,
        );
        // Writing to a String cannot fail.
        if settings.persistence {
            // A killed broker loses what came since the last save.
            writeln!(fixed, "persistence_location {}/\nautosave_interval 30", data.display()).ok();
        }
        if rustix::process::geteuid().is_root() {
            // Otherwise the broker becomes the user `mosquitto`, who cannot read our folder.
            fixed.push_str("user root\n");
        }
        let connections = settings.max_connections;
        if settings.tls_port != 0 {
            let file = |name: &str| folder.join(name).display().to_string();
            write!(
                fixed,
                "\nlistener {} {}\n\
                 max_connections {connections}\n\
                 allow_anonymous false\n\
                 acl_file {}\n\
                 cafile {}\n\
                 certfile {}\n\
                 keyfile {}\n\
                 require_certificate true\n\
                 use_identity_as_username true\n\
                 # A session belongs to the module of the certificate, whatever client id is sent.\n\
                 use_username_as_clientid true\n\
                 # Older versions resume sessions without a certificate, and nothing turns that off.\n\
                 tls_version tlsv1.3\n\
                 ciphers_tls1.3 {}\n",
                settings.tls_port,
                settings.address,
                file(ACCESS),
                file(AUTHORITIES),
                file(CERTIFICATE),
                file(KEY),
                ciphers(),
            )
            .ok();
        }
        if settings.plain_port != 0 {
            write!(
                fixed,
                "\nlistener {} {}\nmax_connections {connections}\nallow_anonymous true\nacl_file {}\n",
                settings.plain_port,
                settings.plain_address,
                folder.join(PLAIN_ACCESS).display(),
            )
            .ok();
        }
        Self { reloaded, fixed }
    }

    /// Can the broker come from the other to this one without a restart?
    pub(crate) fn needs_no_restart(&self, other: &Self) -> bool {
        self.fixed == other.fixed
    }

    pub(crate) fn text(&self) -> String {
        format!("# Written by the module bus at every start.\n{}\n{}", self.reloaded, self.fixed)
    }
}

/// The fast one first: AES where the processor has it, else `ChaCha20`.
fn ciphers() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    let aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let aes = false;
    if aes {
        "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
    } else {
        "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(settings: &BusSettings) -> Configuration {
        Configuration::new(settings, Path::new("/folder"), Path::new("/data"))
    }

    #[test]
    fn nothing_is_anonymous_unless_the_plain_port_is_set() {
        let text = configuration(&BusSettings::default()).text();
        assert!(
            text.contains("listener 8883 0.0.0.0\n") && text.contains("require_certificate true"),
            "{text}"
        );
        assert!(!text.contains("allow_anonymous true"), "{text}");
        let plain = BusSettings { plain_port: 1883, ..BusSettings::default() };
        let text = configuration(&plain).text();
        assert!(text.contains("listener 1883 127.0.0.1\n"), "{text}");
        assert_eq!(text.matches("allow_anonymous true").count(), 1);
    }

    #[test]
    fn bounds_of_queues_need_no_restart_and_ports_do() {
        let before = configuration(&BusSettings::default());
        let bounds = BusSettings { max_queued_messages: 7, memory_limit: 1 << 24, ..BusSettings::default() };
        assert!(configuration(&bounds).needs_no_restart(&before));
        assert_ne!(configuration(&bounds), before);
        let port = BusSettings { tls_port: 7, ..BusSettings::default() };
        assert!(!configuration(&port).needs_no_restart(&before));
    }

    #[test]
    fn nothing_is_kept_on_disk_unless_it_is_asked_for() {
        assert!(configuration(&BusSettings::default()).text().contains("persistence false"));
        let kept = BusSettings { persistence: true, ..BusSettings::default() };
        assert!(configuration(&kept).text().contains("persistence true\npersistence_location /data/\n"));
    }
}
