//! Answers over real sockets.

use hickory_proto::op::{Edns, OpCode, Query};
use lateen_proto::istio::networking::nds::v1::name_table::NameInfo;

use super::*;

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn table(ips: usize) -> Arc<LookupTable> {
    let info = NameInfo {
        ips: (0..ips).map(|i| format!("10.0.{}.{}", i / 250, i % 250 + 1)).collect(),
        registry: "External".into(),
        ..Default::default()
    };
    let table = NameTable {
        table: std::iter::once(("www.example.com".to_owned(), info)).collect(),
    };
    Arc::new(LookupTable::new(
        &table,
        &View::new("shop", "shop.svc.cluster.local", Some("shop.svc.cluster.local".into())),
    ))
}

fn resolver(table: Option<Arc<LookupTable>>, servers: Vec<SocketAddr>) -> Resolver {
    Resolver {
        table: watch::channel(table).1,
        upstream: Upstream {
            servers,
            parallel: false,
            timeout: Duration::from_secs(5),
        },
        answer_before_sync: false,
        metrics: Arc::new(Metrics::new()),
    }
}

async fn ask(resolver: &Resolver, name: &str, kind: RecordType) -> Message {
    Message::from_vec(&resolver.answer(&query(name, kind), Transport::Udp).await.unwrap()).unwrap()
}

#[tokio::test]
async fn names_of_the_mesh_are_answered_with_authority() {
    let resolver = resolver(Some(table(2)), vec![]);
    let answer = ask(&resolver, "WWW.example.com.", RecordType::A).await;
    assert_eq!(
        (answer.metadata.id, answer.answers.len(), answer.metadata.authoritative),
        (77, 2, true)
    );
    let answer = ask(&resolver, "www.example.com.", RecordType::AAAA).await;
    assert_eq!(
        (answer.metadata.response_code, answer.answers.len()),
        (ResponseCode::NoError, 0)
    );
    let answer = ask(&resolver, "www.example.com.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(answer.answers[0].record_type(), RecordType::CNAME);
    assert_eq!(answer.answers[1].name.to_ascii(), "www.example.com.");
}

#[tokio::test]
async fn before_the_table_comes_there_is_no_answer() {
    let answer = ask(&resolver(None, vec![]), "www.example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn long_answers_are_cut_unless_the_client_takes_more() {
    let resolver = resolver(Some(table(100)), vec![]);
    assert!(
        ask(&resolver, "www.example.com.", RecordType::A)
            .await
            .metadata
            .truncation
    );
    let mut message = Message::from_vec(&query("www.example.com.", RecordType::A)).unwrap();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let bytes = message.to_vec().unwrap();
    let answer = Message::from_vec(&resolver.answer(&bytes, Transport::Udp).await.unwrap()).unwrap();
    assert_eq!(answer.answers.len(), 100);
    let bytes = query("www.example.com.", RecordType::A);
    let answer = Message::from_vec(&resolver.answer(&bytes, Transport::Tcp).await.unwrap()).unwrap();
    assert_eq!(answer.answers.len(), 100);
}

#[tokio::test]
async fn other_names_are_passed_on_as_they_came() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = upstream.local_addr().unwrap();
    let resolver = resolver(Some(table(1)), vec![server]);
    let bytes = query("elsewhere.example.org.", RecordType::TXT);
    let answering = async {
        let mut buffer = [0; 512];
        let (length, client) = upstream.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], &bytes[..]);
        let mut answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
        answer.metadata.response_code = ResponseCode::NXDomain;
        upstream.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
    };
    let (answer, ()) = tokio::join!(resolver.answer(&bytes, Transport::Udp), answering);
    assert_eq!(
        Message::from_vec(&answer.unwrap()).unwrap().metadata.response_code,
        ResponseCode::NXDomain
    );
}

#[tokio::test]
async fn no_resolver_means_failure_and_garbage_means_nothing() {
    let resolver = resolver(Some(table(1)), vec![]);
    let answer = ask(&resolver, "elsewhere.example.org.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(resolver.answer(b"garbage", Transport::Udp).await, None);
    let mut response = query("www.example.com.", RecordType::A);
    response[2] |= 0x80;
    assert_eq!(resolver.answer(&response, Transport::Udp).await, None);
}
