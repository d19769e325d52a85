//! Whether the server serves; asked by messages of this file's own, as no crate here has them.

use futures::StreamExt;
use tonic::{Code, Status};

use super::*;

/// Asks for one service.
#[derive(Clone, PartialEq, prost::Message)]
struct Ask {
    #[prost(string, tag = "1")]
    service: String,
}

/// The answer, a number.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// All answers.
#[derive(Clone, PartialEq, prost::Message)]
struct Answers {
    #[prost(map = "string, message", tag = "1")]
    statuses: HashMap<String, Answer>,
}

async fn call<T: prost::Message + Default + Send + Sync + 'static>(
    bench: &Bench,
    method: &'static str,
    service: &str,
) -> Result<tonic::Streaming<T>, Status> {
    bench.raw(method, Request::new(Ask { service: service.into() })).await
}

#[tokio::test]
async fn the_server_serves_until_it_closes() {
    let bench = bench().await;
    let mut check = call::<Answer>(&bench, "/grpc.health.v1.Health/Check", "").await.expect("check");
    assert_eq!(check.message().await.expect("a message").expect("an answer").status, 1);
    let unknown = async {
        let mut answers = call::<Answer>(&bench, "/grpc.health.v1.Health/Check", "other").await?;
        answers.message().await
    };
    assert_eq!(unknown.await.expect_err("unknown").code(), Code::NotFound);
    let mut list = call::<Answers>(&bench, "/grpc.health.v1.Health/List", "").await.expect("list");
    assert_eq!(list.message().await.expect("a message").expect("an answer").statuses[""].status, 1);
    let mut watch = call::<Answer>(&bench, "/grpc.health.v1.Health/Watch", "").await.expect("watch");
    assert_eq!(watch.message().await.expect("a message").expect("an answer").status, 1);
    let mut other = call::<Answer>(&bench, "/grpc.health.v1.Health/Watch", "other").await.expect("watch");
    assert_eq!(other.message().await.expect("a message").expect("an answer").status, 3);
    assert!(futures::poll!(watch.next()).is_pending());
    bench.core.events().close();
    assert_eq!(watch.message().await.expect("a message").expect("an answer").status, 2);
    assert!(watch.message().await.expect("the end").is_none());
}
