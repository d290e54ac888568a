//! The proxy auto-configuration file a browser may be pointed at. PURE.

use std::net::SocketAddr;

/// The media type of a PAC file.
pub(super) const CONTENT_TYPE: &str = "application/x-ns-proxy-autoconfig";

/// A PAC file that sends everything but this machine's own names through the proxy.
///
/// It fails closed: there is no `; DIRECT` after the proxy, so a browser whose proxy has stopped
/// shows an error and does not silently go around it.
pub(super) fn file(proxy: SocketAddr) -> String {
    format!(
        r#"// Everything but this machine itself goes through ronproxy, or fails.
function FindProxyForURL(url, host) {{
  if (host === "localhost" || host === "[::1]" || host === "::1" ||
      shExpMatch(host, "*.localhost") || /^127\.\d+\.\d+\.\d+$/.test(host)) {{
    return "DIRECT";
  }}
  return "PROXY {proxy}";
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_goes_around_the_proxy() {
        let text = file(([127, 0, 0, 1], 1080).into());
        assert!(text.contains(r#"return "PROXY 127.0.0.1:1080";"#), "{text}");
        assert_eq!(text.matches("DIRECT").count(), 1, "{text}");
        assert!(file("[::1]:8".parse().unwrap()).contains("PROXY [::1]:8"));
    }
}
