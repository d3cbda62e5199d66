//! RFC 8448, section 3: the records of a whole connection with `TLS_AES_128_GCM_SHA256`.

use comet_record::{Opened, Session};

const CLIENT_SECRET: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
const SERVER_SECRET: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
const CLIENT_DATA: &str = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd5\
    4a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
/// After the ticket, which has number 0.
const SERVER_DATA: &str = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602d\
    cb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
const CLIENT_ALERT: &str = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
const SERVER_ALERT: &str = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn session(received: (&str, u64), sent: (&str, u64)) -> Session {
    let [received, sent] = [received, sent]
        .map(|(secret, sequence)| [&sequence.to_be_bytes()[..], &bytes(secret)].concat());
    Session::import(&[&[1, 0, 0, 0, 0][..], &received, &sent].concat()).unwrap()
}

#[test]
fn the_records_of_rfc_8448_are_opened_and_made() {
    let data: Vec<u8> = (0..50).collect();
    for (from_client, sealed, alert) in
        [(true, CLIENT_DATA, CLIENT_ALERT), (false, SERVER_DATA, SERVER_ALERT)]
    {
        let mut client = session((SERVER_SECRET, 1), (CLIENT_SECRET, 0));
        let mut server = session((CLIENT_SECRET, 0), (SERVER_SECRET, 1));
        let (from, to) =
            if from_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
        check(from, to, &data, sealed, alert);
    }
}

fn check(from: &mut Session, to: &mut Session, data: &[u8], sealed: &str, alert: &str) {
    let mut out = Vec::new();
    from.seal(data, &mut out).unwrap();
    assert_eq!(out, bytes(sealed));
    assert_eq!(to.open(&mut out), Ok(Opened::Data(data)));
    out.clear();
    from.close(&mut out);
    assert_eq!(out, bytes(alert));
    assert_eq!(to.open(&mut out), Ok(Opened::Closed));
}
