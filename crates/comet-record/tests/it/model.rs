//! Two sessions against a queue of bytes: after any steps and any number of moves each side opens the data that the other sealed.

use comet_record::Session;
use proptest::prelude::*;

use crate::peer::{SUITES, open_all, pair};

#[derive(Clone, Debug)]
enum Step {
    Say { from_client: bool, len: usize },
    Update { from_client: bool },
    Answer { from_client: bool },
    Move { client: bool },
    Deliver { from_client: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lens = prop_oneof![Just(0), 1..100_usize, 16_380..16_390_usize, 40_000..40_010_usize];
    let step = prop_oneof![
        (any::<bool>(), lens).prop_map(|(from_client, len)| Step::Say { from_client, len }),
        any::<bool>().prop_map(|from_client| Step::Update { from_client }),
        any::<bool>().prop_map(|from_client| Step::Answer { from_client }),
        any::<bool>().prop_map(|client| Step::Move { client }),
        any::<bool>().prop_map(|from_client| Step::Deliver { from_client }),
    ];
    prop::collection::vec(step, 0..30)
}

fn side(from_client: bool) -> usize {
    usize::from(!from_client)
}

proptest! {
    #[test]
    fn each_side_opens_the_data_that_the_other_sealed(suite in 0..6_usize, steps in steps()) {
        let (client, server) = pair(SUITES[suite]);
        let mut sessions = [client, server];
        let mut wires = [Vec::new(), Vec::new()];
        let mut said = [Vec::new(), Vec::new()];
        let last = [true, false].map(|from_client| Step::Deliver { from_client });
        for (at, step) in steps.into_iter().chain(last).enumerate() {
            match step {
                Step::Say { from_client, len } => {
                    let side = side(from_client);
                    let data = vec![at as u8; len];
                    sessions[side].seal(&data, &mut wires[side]).unwrap();
                    said[side].extend(data);
                }
                Step::Update { from_client } => {
                    let side = side(from_client);
                    let result = sessions[side].request_key_update(&mut wires[side]);
                    prop_assert_eq!(result.is_ok(), suite < 3);
                }
                Step::Answer { from_client } => {
                    let side = side(from_client);
                    sessions[side].answer_key_update(&mut wires[side]);
                }
                Step::Move { client } => {
                    let session = &mut sessions[side(client)];
                    *session = Session::import(&session.export().unwrap()).unwrap();
                }
                Step::Deliver { from_client } => {
                    let (from, to) = (side(from_client), side(!from_client));
                    let bytes = std::mem::take(&mut wires[from]);
                    let (heard, _) = open_all(&mut sessions[to], &bytes).unwrap();
                    prop_assert_eq!(heard, std::mem::take(&mut said[from]));
                }
            }
        }
    }
}
