//! A browser that a test drives: Chromium, by its DevTools protocol over a WebSocket on loopback.

use std::{fs, path::Path, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    process::Child,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{browser::chromium, overlay::PATIENCE, tools::LIMIT};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// One page of a browser of its own. Dropping it ends the browser.
pub struct Page {
    socket: WebSocketStream<TcpStream>,
    session: String,
    last: u64,
    _browser: Child,
}

impl Page {
    /// Starts a browser with a new profile in `profile`.
    pub async fn open(profile: &Path, (width, height): (u32, u32), dark: bool) -> Self {
        let mut command = chromium(profile.to_str().unwrap());
        command.args(["--remote-debugging-port=0", "--hide-scrollbars", "about:blank"]);
        let mut page = Self::of(command.spawn().unwrap(), profile).await;
        page.resize(width, height).await;
        page.scheme(dark).await;
        page
    }

    /// A page of a browser that was started with a port for debugging.
    pub async fn of(browser: Child, profile: &Path) -> Self {
        let file = profile.join("DevToolsActivePort");
        let started = Instant::now();
        let (port, path) = loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if let Some((port, path)) = text.trim().split_once('\n') {
                break (port.parse::<u16>().unwrap(), path.to_owned());
            }
            assert!(started.elapsed() < PATIENCE, "Chromium does not start");
            sleep(LOOK).await;
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let url = format!("ws://127.0.0.1:{port}{path}");
        let (socket, _) = client_async(url, stream).await.unwrap();
        let mut page = Self { socket, session: String::new(), last: 0, _browser: browser };
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = page.call("Target.attachToTarget", attach).await;
        page.session = session["sessionId"].as_str().unwrap().to_owned();
        page
    }

    /// Gives the page the light or the dark setting of a system.
    pub async fn scheme(&mut self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", media).await;
    }

    /// Gives the page another size.
    pub async fn resize(&mut self, width: u32, height: u32) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Goes to a URL.
    pub async fn go(&mut self, url: &str) {
        assert_eq!(self.try_to_go(url).await, None, "{url}");
    }

    /// Goes to a URL; returns why that is not possible.
    pub async fn try_to_go(&mut self, url: &str) -> Option<String> {
        let gone = self.call("Page.navigate", json!({ "url": url })).await;
        gone["errorText"].as_str().map(str::to_owned)
    }

    /// What a JavaScript expression is.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let asked =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", asked).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true; returns for how long.
    pub async fn until(&mut self, expression: &str) -> Duration {
        let started = Instant::now();
        while self.eval(&format!("(async () => !!(await ({expression})))()")).await != true {
            if started.elapsed() > PATIENCE {
                let body = self.eval("document.body.innerText").await;
                panic!("{expression} does not become true: {body}");
            }
            sleep(LOOK).await;
        }
        started.elapsed()
    }

    /// Clicks with the mouse on a point of the SVG path that an expression names, a third on its way.
    pub async fn click(&mut self, path: &str) {
        let at = format!(
            "(() => {{ const path = {path}; const at = path.getPointAtLength(path.getTotalLength() / 3)\
             .matrixTransform(path.getScreenCTM()); return [at.x, at.y]; }})()"
        );
        let at = self.eval(&at).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Presses a key and lets it go.
    pub async fn press(&mut self, key: &str) {
        // What the browser itself does with a key depends on its code and text.
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            " " => (32, " "),
            _ => (0, ""),
        };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": key, "windowsVirtualKeyCode": code,
                "text": if kind == "keyDown" { text } else { "" },
            });
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// What assistive technology is told: role, name and whether the keyboard reaches it, of each element.
    pub async fn tree(&mut self) -> Vec<(String, String, bool)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({})).await;
        let told = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] != true);
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        told.map(|node| {
            let mut properties = node["properties"].as_array().into_iter().flatten();
            let focusable =
                properties.any(|one| one["name"] == "focusable" && one["value"]["value"] == true);
            (text(&node["role"]), text(&node["name"]), focusable)
        })
        .collect()
    }

    /// The bytes that scripts hold when what nobody holds is gone.
    pub async fn heap(&mut self) -> u64 {
        self.call("HeapProfiler.collectGarbage", json!({})).await;
        self.call("Runtime.getHeapUsage", json!({})).await["usedSize"].as_u64().unwrap()
    }

    /// The processor time of scripts, styles and layout so far, in seconds.
    pub async fn busy(&mut self) -> f64 {
        self.call("Performance.enable", json!({ "timeDomain": "threadTicks" })).await;
        let metrics = self.call("Performance.getMetrics", json!({})).await;
        let parts = ["ScriptDuration", "LayoutDuration", "RecalcStyleDuration"];
        let all = metrics["metrics"].as_array().unwrap().iter();
        all.filter(|metric| parts.iter().any(|part| metric["name"] == *part))
            .map(|metric| metric["value"].as_f64().unwrap())
            .sum()
    }

    /// Keeps a picture of the page as an artefact.
    pub async fn picture(&mut self, name: &str) {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        let png = BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{name}.png")), png).unwrap();
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.socket.send(Message::text(message.to_string())).await.unwrap();
        loop {
            let heard = timeout(LIMIT, self.socket.next()).await.expect("Chromium hangs");
            let Message::Text(text) = heard.unwrap().unwrap() else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == self.last {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }
}
