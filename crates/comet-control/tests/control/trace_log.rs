//! The trace log's file: lines, rotation, and events that cannot be written.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::{fs, io};

use comet_control::{Options, StartError};
use comet_core::{
    ConnId, Counters, Generation, Millis, Report, ShardId, Slot, TraceEvent, TraceKind,
};

use comet_mesh::TrySendError;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::fake::{Fake, PATIENT, ROOMY, options, start_with};

fn path(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Of an earlier run, if at all.
    let _ = fs::remove_file(&path);
    path
}

fn start(path: &Path) -> Fake {
    start_with(Options { trace_log: Some(path.to_owned()), ..options(PATIENT) }, &[ROOMY])
}

fn read(fake: &Fake, sequence: i32) {
    fake.report(event(sequence));
}

fn event(sequence: i32) -> Report {
    Report::Trace(Box::new(TraceEvent {
        conn: ConnId { shard: ShardId(0), slot: Slot(4), generation: Generation(1) },
        user: 7,
        key: "7_1".into(),
        what: TraceKind::Read { operation: 2, sequence, bytes: 16 },
        at: Millis(1_500),
        is_logged: true,
        traces: [].into(),
    }))
}

/// Waits until a file has `lines` lines; they are appended whole.
async fn lines(path: &Path, lines: usize) -> Vec<String> {
    loop {
        match fs::read_to_string(path) {
            Ok(text) if text.lines().count() >= lines => {
                return text.lines().map(str::to_owned).collect();
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn events_are_lines_with_a_time() {
    let path = path("white-lines.log");
    let fake = start(&path);
    for sequence in 0..3 {
        read(&fake, sequence);
    }
    let lines = lines(&path, 3).await;
    for (sequence, line) in lines.iter().enumerate() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!((time.len(), &time[19..20], &time[23..]), (24, ".", "Z"), "{time}");
        let expected = format!("conn=0/4.1 key=\"7_1\" user=7 read op=2 seq={sequence} bytes=16");
        assert_eq!(rest, expected);
    }
    assert_eq!(lines.len(), 3);
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_again() {
    let (path, moved) = (path("white-moved.log"), path("white-moved.log.1"));
    let fake = start(&path);
    read(&fake, 1);
    lines(&path, 1).await;
    fs::rename(&path, &moved).unwrap();
    read(&fake, 2);
    assert_eq!(lines(&moved, 2).await.len(), 2);
    fake.control.trace_log().set(Some(path.clone())).unwrap();
    lines(&path, 0).await;
    read(&fake, 3);
    assert!(lines(&path, 1).await[0].contains("seq=3"));
    assert_eq!(lines(&moved, 2).await.len(), 2);
}

#[tokio::test]
async fn another_file_takes_over_and_a_bad_one_does_not() {
    let (one, other) = (path("white-one.log"), path("white-other.log"));
    let fake = start(&one);
    fake.control.trace_log().set(Some("/nonexistent/white.log".into())).unwrap_err();
    read(&fake, 1);
    lines(&one, 1).await;
    fake.control.trace_log().set(Some(other.clone())).unwrap();
    read(&fake, 2);
    assert!(lines(&other, 1).await[0].contains("seq=2"));
    assert_eq!(lines(&one, 1).await.len(), 1);
    fake.control.trace_log().set(None).unwrap();
    // Of both files. A thread that is late counts its line after it was written.
    let sample = "\ncomet_white_log_lines_total 2\n";
    while !fake.metrics(&[Counters::default()]).await.1.contains(sample) {}
    let (status, _) = fake.debug("PUT", "/white_list", r#"{"users":[1]}"#).await;
    assert_eq!(status, 409);
}

/// A pipe without a reader stands for a disk that hangs: the control thread goes on, and in the end every event is in
/// the file or counted there as missing.
#[tokio::test]
async fn a_trace_file_that_hangs_blocks_no_thread() {
    const EVENTS: u64 = 30_000;
    let path = path("white-pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // A pipe that is opened for both directions does not wait for its other end.
    let pipe = File::options().read(true).write(true).open(&path).unwrap();
    let fake = start(&path);
    for _ in 0..EVENTS {
        let mut report = event(1);
        while let Err(TrySendError::Full(back)) = fake.reports.try_send(report) {
            report = back;
            tokio::task::yield_now().await;
        }
    }
    let counted = tokio::task::spawn_blocking(move || {
        let (mut written, mut missed) = (0, 0);
        let mut lines = BufReader::new(pipe).lines();
        while written + missed < EVENTS {
            let line = lines.next().unwrap().unwrap();
            match line.split_once(" missed events=") {
                Some((_, events)) => missed += events.parse::<u64>().unwrap(),
                None => written += 1,
            }
        }
        (written, missed)
    });
    let (written, missed) = counted.await.unwrap();
    assert_eq!(written + missed, EVENTS);
    assert!(missed > 0, "the queue is bounded");
}

/// `/dev/full` takes no bytes. Events that it does not take are counted; the next line that is written has their number.
#[tokio::test]
async fn events_that_cannot_be_written_to_the_trace_log_are_counted() {
    let fake = start(Path::new("/dev/full"));
    for sequence in 0..5 {
        read(&fake, sequence);
    }
    let counters = [Counters::default()];
    loop {
        let ((_, _, page), ()) =
            tokio::join!(fake.page("/metrics"), fake.answer_snapshots(&counters));
        if page.contains("\ncomet_white_log_missed_total 5\n") {
            assert!(page.contains("\ncomet_white_log_lines_total 0\n"), "{page}");
            break;
        }
    }
}

#[test]
fn a_file_that_cannot_be_opened_fails_the_start() {
    let wake = std::sync::Arc::new(comet_control::ControlWake::default());
    let (shard, _inbox) = comet_mesh::inbox(1, wake.clone());
    let (_, reports) = comet_mesh::inbox(1, wake.clone());
    let options = Options { trace_log: Some("/nonexistent/white.log".into()), ..options(PATIENT) };
    let error =
        comet_control::Control::start(options, wake, vec![shard], reports, None).unwrap_err();
    assert!(matches!(error, StartError::TraceLog { .. }));
    let sentence = error.to_string();
    assert!(sentence.starts_with("white_list.file: cannot write /nonexistent/"), "{sentence}");
}
