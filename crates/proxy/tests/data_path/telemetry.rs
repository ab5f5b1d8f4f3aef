//! What is written down.

use std::sync::Arc;

use isthmus_proxy::config::listener::{AccessLog, AccessLogFormat};

use crate::build::*;
use crate::client::request;
use crate::net::{Proxy, Server, free, run, until};

#[test]
fn access_logs_are_written_in_all_three_forms() {
    run(async {
        let app = Server::http1("app").await;
        let at = free();
        let directory = std::env::temp_dir().join(format!("isthmus-access-log-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let log = |name: &str, format| AccessLog {
            path: path(name).into(),
            format,
        };
        let json: Arc<[(String, serde_json::Value)]> = [
            ("code".to_owned(), "%RESPONSE_CODE%".into()),
            ("agent".to_owned(), "%REQ(USER-AGENT)%".into()),
            ("none".to_owned(), "%REQ(X-NONE)%".into()),
            ("mixed".to_owned(), "%REQ(:METHOD)% %PROTOCOL%".into()),
        ]
        .into();
        let mut manager = manager(inline(vec![to("app")]));
        manager.access_logs = vec![
            log("default", AccessLogFormat::Default),
            log(
                "text",
                AccessLogFormat::Text("%REQ(:METHOD)% %REQ(USER-AGENT):4% %UPSTREAM_CLUSTER%".into()),
            ),
            log("json", AccessLogFormat::Json(json)),
        ];
        let config = Config::default()
            .listener(listener("http", at, vec![chain("c", http(manager))]))
            .cluster(cluster("app"), vec![endpoint(app.address)]);
        let _proxy = Proxy::start(config.live(1)).await;
        request(at, "GET", "app", "/x?y", &[("user-agent", "curl \"8\"")], "").await;
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap_or_default();
        until("the lines are written", async || {
            ["default", "text", "json"]
                .iter()
                .all(|n| read(n).ends_with('\n'))
        })
        .await;
        let line = read("default");
        assert!(
            line.contains("\"GET /x?y HTTP/1.1\" 200 - via_upstream - \"-\" 0 3 "),
            "{line}"
        );
        assert!(line.contains(&format!("\"{}\" app ", app.address)), "{line}");
        assert_eq!(read("text"), "GET curl app\n");
        let object: serde_json::Value = serde_json::from_str(&read("json")).unwrap();
        assert_eq!(object["code"], 200);
        assert_eq!(object["none"], serde_json::Value::Null);
        assert_eq!(object["mixed"], "GET HTTP/1.1");
        std::fs::remove_dir_all(&directory).unwrap();
    });
}
