//! What the server is asked, and what its answers mean: against a server of a few lines that records both.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use iceberg::io::FileIO;
use iceberg::spec::{NestedField, PrimitiveType, Schema, SortOrder, TableMetadataBuilder, Type, UnboundPartitionSpec};
use iceberg::{NamespaceIdent, TableRequirement, TableUpdate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::spec::model::CatalogKind;

#[derive(Clone, Debug)]
struct Asked {
    line: String,
    head: String,
    body: String,
}

/// Answers in order; then it hangs up without one.
struct Server {
    uri: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    async fn start(answers: &[(u16, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/base", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let mut answers: VecDeque<(u16, String)> = answers.iter().map(|(s, b)| (*s, (*b).to_owned())).collect();
        let record = asked.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = Vec::new();
                let (head, body) = loop {
                    let mut part = [0; 4096];
                    let read = stream.read(&mut part).await.unwrap();
                    bytes.extend_from_slice(&part[..read]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length =
                        head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                    if body.len() >= length.unwrap_or(0) {
                        break (head.to_owned(), body.to_owned());
                    }
                };
                let line = head.lines().next().unwrap().to_owned();
                record.lock().unwrap().push(Asked { line, head: head.to_lowercase(), body });
                let Some((status, body)) = answers.pop_front() else { continue };
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { uri, asked }
    }

    fn spec(&self, properties: &[(&str, &str)]) -> CatalogSpec {
        CatalogSpec {
            name: "lake".into(),
            kind: CatalogKind::Rest,
            uri: self.uri.clone(),
            warehouse: "wh".into(),
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>(),
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn table() -> Table {
    let field = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long));
    let schema = Schema::builder().with_fields([field.into()]).build().unwrap();
    let spec = UnboundPartitionSpec::builder().with_spec_id(0).build();
    let metadata = TableMetadataBuilder::new(
        schema,
        spec,
        SortOrder::unsorted_order(),
        "s3://b/t".into(),
        iceberg::spec::FormatVersion::V2,
        std::collections::HashMap::new(),
    );
    Table::builder()
        .identifier(TableIdent::new(NamespaceIdent::new("ads".into()), "metrics".into()))
        .file_io(FileIO::new_with_memory())
        .runtime(iceberg::Runtime::try_current().unwrap())
        .metadata(metadata.unwrap().build().unwrap().metadata)
        .build()
        .unwrap()
}

fn change() -> Change {
    Change {
        requirements: vec![TableRequirement::RefSnapshotIdMatch { r#ref: "main".into(), snapshot_id: Some(7) }],
        updates: vec![TableUpdate::SetProperties { updates: [("k".to_owned(), "v".to_owned())].into() }],
        files: Vec::new(),
    }
}

const CONFIG: &str = r#"{"defaults": {"prefix": "no"}, "overrides": {"prefix": "my/pre fix", "header.x-more": "2"}}"#;

#[tokio::test]
async fn a_commit_is_one_post_with_what_is_required_and_what_changes() {
    let server = Server::start(&[(200, CONFIG), (200, "{}")]).await;
    let submit = RestSubmit::open(&server.spec(&[("token", "secret"), ("header.x-own", "1")])).await.unwrap();
    assert!(matches!(submit.submit(&table(), &change()).await, Submitted::Yes));
    let [config, commit] = &server.asked()[..] else { panic!("{:?}", server.asked()) };
    assert_eq!(config.line, "GET /base/v1/config?warehouse=wh HTTP/1.1");
    assert_eq!(commit.line, "POST /base/v1/my/pre%20fix/namespaces/ads/tables/metrics HTTP/1.1");
    for header in ["authorization: bearer secret", "x-own: 1", "x-more: 2", "content-type: application/json"] {
        assert!(commit.head.contains(header), "{header}: {}", commit.head);
    }
    let body: serde_json::Value = serde_json::from_str(&commit.body).unwrap();
    let expected = serde_json::json!({
        "identifier": { "namespace": ["ads"], "name": "metrics" },
        "requirements": [{ "type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": 7 }],
        "updates": [{ "action": "set-properties", "updates": { "k": "v" } }],
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn what_an_answer_means() {
    let error = r#"{"error": {"message": "because", "type": "X", "code": 1}}"#;
    let answers: Vec<(u16, &str)> =
        [200, 409, 500, 502, 503, 504, 401, 403, 404, 429].iter().map(|status| (*status, error)).collect();
    let server = Server::start(&[&[(200, "{}")], &answers[..]].concat()).await;
    let submit = RestSubmit::open(&server.spec(&[("token", "old")])).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..=answers.len() {
        seen.push(match submit.submit(&table(), &change()).await {
            Submitted::Yes => "yes",
            Submitted::Conflict(why) if why.contains("because") => "conflict",
            Submitted::Perhaps(_) => "perhaps",
            Submitted::Refused(SinkError::Fatal(why)) if why.contains("because") => "refused",
            Submitted::Refused(SinkError::Transient(_)) => "later",
            other => panic!("{other:?}"),
        });
    }
    // the last: the request was taken, and no answer came
    let expected = [
        "yes", "conflict", "perhaps", "perhaps", "perhaps", "perhaps", "refused", "refused", "refused", "later",
        "perhaps",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_token_that_has_expired_is_exchanged_once() {
    let (token, new) = (r#"{"access_token": "one"}"#, r#"{"access_token": "two"}"#);
    let server = Server::start(&[(200, token), (200, "{}"), (401, ""), (200, new), (200, "{}")]).await;
    let submit = RestSubmit::open(&server.spec(&[("credential", "me:s3cret"), ("scope", "all")])).await.unwrap();
    assert!(matches!(submit.submit(&table(), &change()).await, Submitted::Yes));
    let asked = server.asked();
    assert_eq!(asked[0].line, "POST /base/v1/oauth/tokens HTTP/1.1");
    assert_eq!(asked[0].body, "grant_type=client_credentials&client_secret=s3cret&client_id=me&scope=all");
    assert!(asked[2].head.contains("bearer one") && asked[4].head.contains("bearer two"), "{asked:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_has_applied_nothing() {
    let server = Server::start(&[(200, "{}")]).await;
    let mut submit = RestSubmit::open(&server.spec(&[])).await.unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    submit.properties.insert("uri".into(), format!("http://{free}"));
    assert!(matches!(submit.submit(&table(), &change()).await, Submitted::Refused(SinkError::Transient(_))));
}
