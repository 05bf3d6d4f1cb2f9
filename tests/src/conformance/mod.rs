//! What every libOS must do: one function per behaviour, generic over the libOS and its surroundings.
//!
//! A libOS joins by implementing [`Harness`] and naming the groups that it has:
//!
//! ```
//! use demi_tests::Loopback;
//! use demi_tests::conformance::InProcess;
//!
//! demi_tests::conformance!(InProcess<Loopback>: general streams datagrams storage);
//! ```
//!
//! Invariants: every test is bounded in time and number; each begins with a fresh instance, and ends with the
//! accounts that [`run`] checks. Whatever libOSes may do differently, the tests allow; a test that asserts
//! more than the API promises is wrong.
//!
//! | file | what it holds |
//! |---|---|
//! | `rig` | the instance, its accounts, short names for common steps |
//! | `in_process` | the harness of libOSes that need nothing around them |
//! | `line` | every kind of queue as a way from a near end to a far end |
//! | `streams`, `messages`, `connections` | stream sockets: their bytes; their elements, where boundaries are kept; their beginning and end |
//! | `datagrams`, `storage` | datagram sockets; files and logs |
//! | `tokens`, `waiting`, `hostile` | tokens, waits, and numbers that name nothing |
//! | `queues`, `joined`, `closing` | operators: of one source, of several; closing, failing, framing |
//! | `tasks` | the asynchronous face |

pub mod closing;
pub mod connections;
pub mod datagrams;
pub mod hostile;
mod in_process;
pub mod joined;
mod line;
pub mod messages;
pub mod queues;
mod rig;
pub mod storage;
pub mod streams;
pub mod tasks;
pub mod tokens;
pub mod waiting;

pub use self::in_process::InProcess;
pub use self::line::Line;
pub use self::rig::{Harness, PATIENCE, Rig, pattern, run};

/// Makes a `#[test]` of every function of the named groups: `general` (tokens, waits, operators, tasks; these use
/// stream sockets too), `streams`, `messages` (in its place where connections keep boundaries), `datagrams`, `storage`.
#[macro_export]
macro_rules! conformance {
    ($harness:ty: $($group:ident)+) => { $($crate::conformance! { @$group $harness })+ };
    (@tests $harness:ty; $($module:ident: $($test:ident)+;)+) => { $(
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                fn $test() {
                    $crate::conformance::run::<$harness>($crate::conformance::$module::$test);
                }
            )+
        }
    )+ };
    (@streams $harness:ty) => { $crate::conformance! { @tests $harness;
        streams:
            a_connection_knows_both_addresses echo_of_every_size an_empty_push_is_not_an_end
            segments_arrive_in_order many_pushes_arrive_in_order pushes_complete_in_order
            pops_are_served_in_order sized_pops_take_no_more_than_asked pushes_wait_for_a_slow_reader
            connections_are_independent half_close_leaves_the_other_direction shutdown_sends_what_was_pushed
            shutdown_of_reading_ends_pops a_cancelled_pop_loses_nothing a_cancelled_push_is_not_sent;
        connections:
            the_backlog_keeps_connections accepts_are_served_in_order a_refused_connect_can_be_tried_again
            close_cancels_pops_and_accepts_once accepts_can_be_cancelled close_delivers_what_was_pushed
            linger_bounds_the_pushes_of_a_closed_socket linger_of_zero_resets close_with_unread_bytes_resets
            pushes_to_a_closed_peer_fail closing_a_listener_resets_its_backlog an_address_is_bound_once
            calls_in_the_wrong_state_are_refused descriptors_are_reused_first_in_first_out
            a_closed_descriptor_is_refused connections_come_and_go;
    } };
    (@messages $harness:ty) => { $crate::conformance! { @tests $harness;
        messages:
            arrays_pop_as_they_were_pushed nothing_is_an_element_too many_elements_of_all_sizes
            each_pop_gets_one_element a_cancelled_pop_keeps_its_place sized_pops_count_elements
            a_push_that_waits_can_be_recalled neither_side_pops_and_both_push_on;
        streams:
            a_connection_knows_both_addresses echo_of_every_size segments_arrive_in_order
            many_pushes_arrive_in_order pushes_complete_in_order pushes_wait_for_a_slow_reader
            connections_are_independent half_close_leaves_the_other_direction shutdown_sends_what_was_pushed
            shutdown_of_reading_ends_pops;
        connections:
            the_backlog_keeps_connections accepts_are_served_in_order a_refused_connect_can_be_tried_again
            close_cancels_pops_and_accepts_once accepts_can_be_cancelled close_delivers_what_was_pushed
            linger_bounds_the_pushes_of_a_closed_socket linger_of_zero_resets close_with_unread_bytes_resets
            pushes_to_a_closed_peer_fail closing_a_listener_resets_its_backlog an_address_is_bound_once
            calls_in_the_wrong_state_are_refused descriptors_are_reused_first_in_first_out
            a_closed_descriptor_is_refused connections_come_and_go;
    } };
    (@datagrams $harness:ty) => { $crate::conformance! { @tests $harness;
        datagrams:
            a_datagram_has_its_sender datagrams_of_every_size segments_are_one_datagram
            datagrams_keep_their_order a_slow_receiver_gets_whole_datagrams_in_order
            a_push_to_nowhere_is_refused an_oversize_datagram_is_refused
            a_connected_socket_hears_its_peer_only pops_can_be_cancelled;
    } };
    (@storage $harness:ty) => { $crate::conformance! { @tests $harness;
        storage:
            appends_are_read_in_order positions_rise seek_finds_head_and_end truncation_discards_the_rest
            flush_follows_the_pushes_before segments_and_nothing_can_be_appended content_outlives_its_queue
            two_handles_share_the_content pops_at_the_end close_finishes_pushes socket_calls_are_refused
            regions_are_no_files;
    } };
    (@general $harness:ty) => { $crate::conformance! { @tests $harness;
        tokens:
            a_reaped_token_is_refused a_foreign_token_is_refused no_token_comes_twice cancel_is_final
            tokens_are_bounded queues_are_bounded;
        hostile:
            random_descriptors_are_refused random_tokens_are_refused;
        waiting:
            a_time_limit_leaves_the_token_valid a_hopeless_wait_is_refused wait_any_says_which
            wait_any_starves_nobody wait_next_n_starves_nobody wait_all_takes_all_or_nothing
            wait_all_refuses_duplicates wait_next_n_takes_the_oldest_first a_wait_set_keeps_its_tokens
            a_wait_set_gives_several_at_once an_interrupter_ends_a_wait an_idle_wait_sleeps;
        queues:
            a_queue_in_memory_is_first_in_first_out a_full_queue_holds_up_pushes
            closing_a_queue_in_memory_drops_its_elements a_queue_in_memory_can_end filter_drops_on_pop
            filter_rejects_on_push operators_on_messages_refuse_streams atomic_operations_need_a_region map_changes_both_ways
            map_of_a_stream_keeps_its_end a_failing_change_fails_one_operation partition_loses_nothing
            partition_is_bounded_on_both_sides closures_cannot_call_back pop_n_takes_what_is_there;
        joined:
            merge_pops_from_both_in_turn merge_pushes_to_both merge_names_the_branch_that_failed
            merge_waits_for_the_slower_branch merged_streams_end_when_both_have sort_pops_the_greatest_first
            sort_looks_ahead_so_far_and_no_further qconnect_moves_elements_and_the_end qconnect_makes_a_proxy
            qconnect_obeys_back_pressure qconnect_ends_with_either_queue operators_stack;
        closing:
            closing_a_derived_queue_closes_its_source closing_a_source_cancels_pops_above
            a_reused_number_is_not_confused a_cancelled_pop_keeps_its_element the_end_comes_through
            pushes_through_operators_obey_back_pressure a_source_is_claimed_once the_depth_is_bounded
            frames_survive_any_cut bad_frames_are_final_errors what_cannot_be_framed_is_refused;
        tasks:
            operations_can_be_awaited tasks_talk_to_each_other a_dropped_operation_is_cancelled
            wait_next_n_leaves_futures_alone a_queue_is_a_stream a_queue_is_a_sink
            errors_end_streams_and_sinks tasks_can_sleep a_task_that_panics_is_finished wakers_work_from_other_threads
            busy_tasks_do_not_starve_operations tasks_can_be_aborted;
    } };
}
