//! The asynchronous face: operations as futures, tasks, streams and sinks.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use demi_api::{Error, QDesc, SgArray};
use futures::{SinkExt, StreamExt};

use super::rig::{Harness, Rig, pattern};

/// An awaited operation yields what a wait would have; one that is done already, too.
pub fn operations_can_be_awaited<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let demi = &rig.demi;
    let talk = async {
        for byte in *b"ping" {
            demi.push_async(near, rig.sga(&[byte])).await?;
            let there = demi.pop_async(far).await?;
            demi.push_async(far, there).await?;
            assert_eq!(demi.pop_async(near).await?.to_vec(), [byte]);
        }
        Ok::<_, Error>(())
    };
    demi.block_on(talk).unwrap().unwrap();
    let push = rig.start_push(near, b"x");
    let done = demi.block_on(demi.operation(push).unwrap()).unwrap().unwrap();
    assert_eq!((done.token, done.qd), (push, near));
    super::hostile::every_wait_refuses(rig, push);
    rig.close([near, far]);
}

/// A server and its clients, each a task.
pub fn tasks_talk_to_each_other<H: Harness>(rig: &Rig<H>) {
    let (listener, addr) = rig.listener();
    let demi = rig.demi.clone();
    let server = rig.demi.spawn(async move {
        for _ in 0..5 {
            let (qd, _) = demi.accept_async(listener).await?;
            let each = demi.clone();
            let _running = demi.spawn(async move {
                while let Ok(sga) = each.pop_async(qd).await {
                    if sga.is_empty() || each.push_async(qd, sga).await.is_err() {
                        break;
                    }
                }
                each.close(qd)
            })?;
        }
        demi.close(listener)
    });
    let clients: Vec<_> = (0..5_u8)
        .map(|client| {
            let (demi, addr, qd) = (rig.demi.clone(), addr.clone(), rig.stream_socket());
            let talk = async move {
                demi.connect_async(qd, addr).await?;
                for round in 0..10_u8 {
                    demi.push_async(qd, demi.copy_from(&[client, round])?).await?;
                    let mut back = Vec::new();
                    while back.len() < 2 {
                        back.extend(demi.pop_async(qd).await?.to_vec());
                    }
                    assert_eq!(back, [client, round]);
                }
                demi.close(qd)
            };
            rig.demi.spawn(talk).unwrap()
        })
        .collect();
    for client in clients {
        rig.demi.block_on(client).unwrap().unwrap().unwrap();
    }
    rig.demi.block_on(server.unwrap()).unwrap().unwrap().unwrap();
}

/// A dropped operation is cancelled, its token forgotten, and its element left for the next.
pub fn a_dropped_operation_is_cancelled<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let pop = rig.demi.pop(far).unwrap();
    let mut operation = rig.demi.operation(pop).unwrap();
    rig.demi.block_on(once(&mut operation)).unwrap();
    drop(operation);
    super::hostile::every_wait_refuses(rig, pop);
    let push = rig.start_push(near, b"for the next");
    rig.until(|| rig.demi.counters().unwrap().operations_pending == 0);
    drop(rig.demi.operation(push).unwrap());
    super::hostile::every_wait_refuses(rig, push);
    assert_eq!(rig.pop_exactly(far, 12), b"for the next");
    rig.close([near, far]);
}

/// Operations of futures are left alone by `wait_next_n`.
pub fn wait_next_n_leaves_futures_alone<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let [its, mine] = [0, 1].map(|_| rig.demi.pop(queue).unwrap());
    let operation = rig.demi.operation(its).unwrap();
    rig.push(queue, b"1").unwrap();
    rig.push(queue, b"2").unwrap();
    let mut results = Vec::new();
    assert_eq!(rig.demi.wait_next_n(&mut results, 9, super::PATIENCE), Ok(1));
    assert_eq!(results[0].token, mine);
    let done = rig.demi.block_on(operation).unwrap().unwrap();
    assert_eq!(done.popped().unwrap().to_vec(), b"1");
    rig.close([queue]);
}

/// A queue as a stream of elements, up to its end.
pub fn a_queue_is_a_stream<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let demi = rig.demi.clone();
    let bytes = pattern(300_000);
    let sent = bytes.clone();
    let sender = rig.demi.spawn(async move {
        for chunk in sent.chunks(7000) {
            demi.push_async(near, demi.copy_from(chunk)?).await?;
        }
        demi.close(near)
    });
    let mut stream = rig.demi.stream(far);
    let mut received = Vec::new();
    rig.demi
        .block_on(async {
            while let Some(piece) = stream.next().await {
                received.extend(piece.unwrap().to_vec());
            }
            assert!(stream.next().await.is_none(), "nothing behind the end");
        })
        .unwrap();
    assert!(received == bytes);
    rig.demi.block_on(sender.unwrap()).unwrap().unwrap().unwrap();
    rig.close([far]);
}

/// A queue as a sink holds so many pushes and waits for the rest.
pub fn a_queue_is_a_sink<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue_with(2).unwrap();
    let demi = rig.demi.clone();
    let consumer = rig.demi.spawn(async move {
        let mut received = Vec::new();
        while received.len() < 50 {
            received.extend(demi.pop_async(queue).await?.to_vec());
        }
        Ok::<_, Error>(received)
    });
    let mut sink = rig.demi.sink(queue, 3);
    rig.demi
        .block_on(async {
            for index in 0..50_u8 {
                sink.feed(rig.sga(&[index])).await.unwrap();
            }
            sink.close().await.unwrap();
        })
        .unwrap();
    let received = rig.demi.block_on(consumer.unwrap()).unwrap().unwrap().unwrap();
    assert_eq!(received, (0..50).collect::<Vec<u8>>());
    rig.close([queue]);
}

/// An error of a queue is the stream's last item, and the sink's answer.
pub fn errors_end_streams_and_sinks<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let (mut stream, mut sink) = (rig.demi.stream(queue), rig.demi.sink(queue, 1));
    rig.close([queue]);
    let item = rig.demi.block_on(stream.next()).unwrap();
    assert!(matches!(item, Some(Err(Error::BadDescriptor))));
    assert!(rig.demi.block_on(stream.next()).unwrap().is_none());
    let sent = rig.demi.block_on(sink.send(SgArray::new())).unwrap();
    assert_eq!(sent, Err(Error::BadDescriptor));
}

/// Time passes for tasks, no less than they asked for; a dropped sleep is gone.
pub fn tasks_can_sleep<H: Harness>(rig: &Rig<H>) {
    let begin = Instant::now();
    let tasks = [15, 5, 10].map(Duration::from_millis).map(|duration| {
        let demi = rig.demi.clone();
        let sleep = async move {
            let begin = Instant::now();
            demi.sleep_async(duration).await;
            assert!(begin.elapsed() >= duration, "a sleep ended early");
        };
        rig.demi.spawn(sleep).unwrap()
    });
    drop(rig.demi.sleep_async(Duration::from_secs(3600)));
    for task in tasks {
        rig.demi.block_on(task).unwrap().unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "a dropped sleep was slept");
}

/// The panic reaches whoever drives the task; its place is free again, and nothing waits for it.
pub fn a_task_that_panics_is_finished<H: Harness>(rig: &Rig<H>) {
    let task = rig.demi.spawn(async { panic!("as the test wants it") }).unwrap();
    let driven = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.demi.block_on(task)));
    assert!(driven.is_err());
    let mut results = Vec::new();
    assert_eq!(rig.demi.wait_next_n(&mut results, 1, None), Err(Error::NothingOutstanding));
}

/// A waker works from another thread, with the instance asleep or not.
pub fn wakers_work_from_other_threads<H: Harness>(rig: &Rig<H>) {
    for delay in [0, 20] {
        let shared = Arc::new((AtomicBool::new(false), Mutex::new(None::<Waker>)));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(delay));
            theirs.0.store(true, Ordering::SeqCst);
            if let Some(waker) = theirs.1.lock().unwrap().take() {
                waker.wake();
            }
        });
        let woken = poll_fn(|context| {
            *shared.1.lock().unwrap() = Some(context.waker().clone());
            if shared.0.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        });
        // Nothing else could end this wait.
        rig.demi.block_on(woken).unwrap();
        thread.join().unwrap();
    }
}

/// Tasks that are busy with each other do not keep operations from completing.
pub fn busy_tasks_do_not_starve_operations<H: Harness>(rig: &Rig<H>) {
    let (near, far) = rig.connected();
    let stop = Rc::new(Cell::new(false));
    for _ in 0..4 {
        let stop = Rc::clone(&stop);
        let spin = poll_fn(move |context| {
            context.waker().wake_by_ref();
            if stop.get() { Poll::Ready(()) } else { Poll::Pending }
        });
        drop(rig.demi.spawn(spin).unwrap());
    }
    let talk = async {
        for _ in 0..20 {
            rig.demi.push_async(near, rig.sga(b"x")).await?;
            rig.demi.pop_async(far).await?;
        }
        Ok::<_, Error>(())
    };
    rig.demi.block_on(talk).unwrap().unwrap();
    stop.set(true);
    rig.demi.block_on(rig.demi.sleep_async(Duration::from_millis(1))).unwrap();
    rig.close([near, far]);
}

/// Tasks can be dropped all together; whoever waits for one is told, and their operations are cancelled.
pub fn tasks_can_be_aborted<H: Harness>(rig: &Rig<H>) {
    let queue = rig.demi.queue().unwrap();
    let waits = |demi: demi_api::Demikernel<H::LibOs>, qd: QDesc| async move { demi.pop_async(qd).await };
    let handle = rig.demi.spawn(waits(rig.demi.clone(), queue)).unwrap();
    rig.demi.block_on(rig.demi.sleep_async(Duration::from_millis(1))).unwrap();
    rig.demi.abort_tasks().unwrap();
    assert!(matches!(rig.demi.block_on(handle).unwrap(), Err(Error::Cancelled)));
    assert_eq!(rig.demi.counters().unwrap().operations_pending, 0);
    rig.push(queue, b"nobody took it").unwrap();
    assert_eq!(rig.pop(queue).unwrap(), b"nobody took it");
    rig.close([queue]);
}

/// Polls a future once.
async fn once<F: Future + Unpin>(future: &mut F) {
    poll_fn(|context| {
        let _ = std::pin::Pin::new(&mut *future).poll(context);
        Poll::Ready(())
    })
    .await;
}
