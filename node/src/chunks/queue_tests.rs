//! Tests of the queue over std's primitives: the bounds of a batch, closing, refusing, and a commit that panics. They
//! never look for races; `shuttle_check` does.

use super::queue::{BatchRule, PushError, Queue};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any test runs: a batch that comes did not come by its wait.
const NEVER: Duration = Duration::from_secs(3600);

/// A rule with wide bounds and no wait, to be narrowed by the test.
const WIDE: BatchRule = BatchRule { bytes: u64::MAX, items: usize::MAX, wait: Duration::ZERO };

/// Pushes the items `0..` with these sizes, closes and serves them, all on this thread.
fn batches(rule: BatchRule, sizes: &[u64]) -> Vec<Vec<usize>> {
    let queue = Queue::new(sizes.len());
    for (item, bytes) in sizes.iter().enumerate() {
        queue.push(item, *bytes).unwrap();
    }
    queue.close();
    let mut batches = Vec::new();
    queue.serve(&rule, |batch| batches.push(batch));
    assert_eq!(queue.len(), 0);
    batches
}

/// Serves an open queue on a thread while `pushes` runs, takes one batch and closes.
fn first_batch(items_max: usize, rule: BatchRule, pushes: impl FnOnce(&Queue<u32>)) -> Vec<u32> {
    let queue = Queue::new(items_max);
    let (send, receive) = mpsc::sync_channel(64);
    thread::scope(|scope| {
        let server = scope.spawn(|| queue.serve(&rule, |batch| send.send(batch).unwrap()));
        pushes(&queue);
        let batch = receive.recv_timeout(Duration::from_secs(60));
        queue.close();
        server.join().unwrap();
        batch.unwrap()
    })
}

#[test]
fn bytes_bound_a_batch() {
    let rule = BatchRule { bytes: 10, ..WIDE };
    assert_eq!(batches(rule, &[4, 6, 4, 4, 4, 10, 1]), [vec![0, 1], vec![2, 3, 4], vec![5], vec![6]]);
}

#[test]
fn an_item_of_any_size_is_taken_alone() {
    let rule = BatchRule { bytes: 10, ..WIDE };
    assert_eq!(batches(rule, &[u64::MAX, 2, u64::MAX, u64::MAX]), [vec![0], vec![1, 2], vec![3]]);
    assert_eq!(batches(BatchRule { bytes: 0, ..WIDE }, &[0, 7, 0]), [[0], [1], [2]]);
    assert_eq!(batches(WIDE, &[u64::MAX, u64::MAX]), [[0], [1]]);
}

#[test]
fn items_bound_a_batch() {
    assert_eq!(batches(BatchRule { items: 2, ..WIDE }, &[1; 5]), [vec![0, 1], vec![2, 3], vec![4]]);
    assert_eq!(batches(BatchRule { items: 0, ..WIDE }, &[1; 2]), [[0], [1]]);
}

#[test]
fn without_wait_takes_what_is_there() {
    assert_eq!(batches(WIDE, &[1; 100]), [(0..100).collect::<Vec<_>>()]);
    assert_eq!(first_batch(10, WIDE, |queue| queue.push(1, 1).unwrap()), [1]);
}

#[test]
fn a_full_batch_does_not_wait() {
    let push_three = |queue: &Queue<u32>| (0..3).for_each(|item| queue.push(item, 5).unwrap());
    assert_eq!(first_batch(10, BatchRule { items: 3, wait: NEVER, ..WIDE }, push_three), [0, 1, 2]);
    assert_eq!(first_batch(10, BatchRule { bytes: 15, wait: NEVER, ..WIDE }, push_three), [0, 1, 2]);
    assert_eq!(first_batch(10, BatchRule { bytes: 9, wait: NEVER, ..WIDE }, push_three), [0, 1]);
    // Nothing more can come while the queue is full.
    assert_eq!(first_batch(3, BatchRule { wait: NEVER, ..WIDE }, push_three), [0, 1, 2]);
}

#[test]
fn a_batch_waits_for_more_from_its_first_push_on() {
    let wait = Duration::from_secs(1);
    let started = Instant::now();
    let batch = first_batch(10, BatchRule { wait, ..WIDE }, |queue| {
        queue.push(1, 1).unwrap();
        thread::sleep(wait / 10);
        queue.push(2, 1).unwrap();
    });
    assert_eq!(batch, [1, 2]);
    assert!(started.elapsed() >= wait);
}

#[test]
fn the_wait_is_over_for_an_item_that_waited_before_the_server_came() {
    let wait = Duration::from_secs(1);
    let queue = Queue::new(10);
    queue.push(1, 1).unwrap();
    thread::sleep(wait);
    let started = Instant::now();
    queue.serve(&BatchRule { wait, ..WIDE }, |batch| {
        assert_eq!(batch, [1]);
        queue.close();
    });
    assert!(started.elapsed() < wait / 2);
}

#[test]
fn what_came_during_a_commit_is_the_next_batch() {
    let queue = Queue::new(10);
    let mut batches = Vec::new();
    queue.push(0, 1).unwrap();
    queue.serve(&WIDE, |batch| {
        if batches.is_empty() {
            (1..4).for_each(|item| queue.push(item, 1).unwrap());
            queue.close();
        }
        batches.push(batch);
    });
    assert_eq!(batches, [vec![0], vec![1, 2, 3]]);
}

#[test]
fn close_ends_an_idle_and_a_waiting_server() {
    let rule = BatchRule { wait: NEVER, ..WIDE };
    for pushed in [vec![], vec![7]] {
        let queue = Queue::new(10);
        let served = thread::scope(|scope| {
            let server = scope.spawn(|| {
                let mut served = Vec::new();
                queue.serve(&rule, |batch| served.extend(batch));
                served
            });
            pushed.iter().for_each(|item| queue.push(*item, 1).unwrap());
            // Most likely long enough for the server to be in its wait; it has to end either way.
            thread::sleep(Duration::from_millis(50));
            queue.close();
            server.join().unwrap()
        });
        assert_eq!(served, pushed);
    }
}

#[test]
fn refuses_with_the_item() {
    let queue = Queue::new(2);
    assert_eq!(queue.push("a", 1), Ok(()));
    assert_eq!(queue.push("b", 1), Ok(()));
    assert_eq!(queue.push("c", 1), Err(("c", PushError::Full)));
    assert_eq!(queue.len(), 2);
    queue.close();
    assert_eq!(queue.push("d", 1), Err(("d", PushError::Closed)));
    let mut served = Vec::new();
    queue.serve(&WIDE, |batch| served.extend(batch));
    assert_eq!(served, ["a", "b"]);
    assert_eq!(queue.push("e", 1), Err(("e", PushError::Closed)));
}

#[test]
fn a_panic_in_commit_closes() {
    let queue = Queue::new(10);
    let (send, receive) = mpsc::sync_channel::<()>(1);
    for _ in 0..3 {
        queue.push(send.clone(), 1).unwrap();
    }
    let rule = BatchRule { items: 1, ..WIDE };
    // Not `panic!`, whose message would only clutter the output.
    let commit = |_| std::panic::resume_unwind(Box::new("a failing commit"));
    assert!(catch_unwind(AssertUnwindSafe(|| queue.serve(&rule, commit))).is_err());
    assert_eq!(queue.push(send, 1).map_err(|(_, why)| why), Err(PushError::Closed));
    assert_eq!(queue.len(), 0);
    // All the senders are gone, those not served included: whoever waits for an answer hears of it.
    assert_eq!(receive.recv(), Err(mpsc::RecvError));
}

#[test]
fn many_threads_lose_nothing_and_keep_their_order() {
    const THREADS: u32 = 4;
    const ITEMS: u32 = 20_000;
    let queue = Queue::new(64);
    let rule = BatchRule { items: 16, wait: Duration::from_micros(50), ..WIDE };
    let mut served = vec![Vec::new(); THREADS as usize];
    thread::scope(|scope| {
        let producers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let queue = &queue;
                scope.spawn(move || {
                    for n in 0..ITEMS {
                        let mut item = (thread, n);
                        while let Err((back, why)) = queue.push(item, 1) {
                            assert_eq!((back, why), ((thread, n), PushError::Full));
                            item = back;
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            producers.into_iter().for_each(|producer| producer.join().unwrap());
            queue.close();
        });
        queue.serve(&rule, |batch| {
            assert!(batch.len() <= 16);
            batch.into_iter().for_each(|(thread, n)| served[thread as usize].push(n));
        });
    });
    let expected: Vec<_> = (0..ITEMS).collect();
    assert!(served.iter().all(|items| *items == expected));
}
