//! What every worker answers when one of them asks all, and how the answers become one reply.

use crate::conn::{Conn, Parked};
use crate::event::ConnId;
use crate::message::{Answer, ClientFilter, Question};
use crate::stats::{Gauges, Stats};
use crate::status::NodeStatus;
use crate::worker::Worker;
use quorate_script::sha1_hex;
use std::sync::Arc;

impl Worker {
    /// Answers a question for this worker. `asker` is the client that asks, if it is one of ours:
    /// it is not in the map while it executes.
    pub(crate) fn answer(&mut self, question: &Question, asker: Option<&mut Conn>) -> Answer {
        let asker = asker.map(|conn| &*conn);
        match question {
            Question::Info(_) => Answer::Stats(Box::new(self.stats_now(asker))),
            Question::ClientList(filter) => Answer::Lines(self.client_lines(filter, asker)),
            Question::Replicas => Answer::Lines(self.replica_lines()),
            Question::Status => {
                let mut status = self.status(self.now);
                status.stats = self.stats_now(asker);
                Answer::Status(Box::new(status))
            }
            Question::ClientKill(filter, _) => Answer::Count(self.kill_clients(filter, asker)),
            Question::Unblock(conn, with_error) => {
                Answer::Count(self.unblock_client(*conn, *with_error))
            }
            Question::Pause(ms, all) => {
                self.begin_pause(*ms, *all);
                Answer::Count(1)
            }
            Question::Unpause => {
                self.end_pause();
                Answer::Count(1)
            }
            Question::ConfigSet(values) => {
                super::config::apply(&mut self.settings, values);
                Answer::Count(1)
            }
            Question::LoadScript(body) => {
                // The worker that asks has compiled it.
                let _ = self.scripts.load(sha1_hex(body), body);
                Answer::Count(1)
            }
            Question::FlushScripts => {
                self.scripts.flush();
                Answer::Count(1)
            }
            Question::ResetStats => {
                let blocked = self.stats.blocked;
                self.stats = Stats { blocked, ..Stats::default() };
                self.recent.reset(self.now.mono);
                Answer::Count(1)
            }
        }
    }

    /// Puts the answers of all workers together and replies.
    pub(crate) fn conclude(&mut self, conn: &mut Conn, question: &Question, answers: Vec<Answer>) {
        match question {
            Question::Info(sections) => {
                let mut stats = Stats::default();
                for answer in &answers {
                    if let Answer::Stats(one) = answer {
                        stats.add(one);
                    }
                }
                let text = self.info(sections, &stats);
                conn.reply().verbatim("txt", &text);
            }
            Question::Status => {
                let (mut workers, mut outside) = (Vec::new(), None);
                for answer in answers {
                    match answer {
                        Answer::Status(status) => workers.push(*status),
                        Answer::Outside(facts) => outside = Some(*facts),
                        Answer::Stats(_) | Answer::Lines(_) | Answer::Count(_) => {}
                    }
                }
                let status = NodeStatus::new(Arc::clone(&self.config), workers, outside);
                let status = status.expect("this worker has answered");
                super::status::write_status(&status, &mut conn.reply());
            }
            Question::Replicas => {
                let lines = answers.into_iter().filter_map(|answer| match answer {
                    Answer::Lines(lines) => Some(lines),
                    _ => None,
                });
                let mut lines: Vec<(u64, String)> = lines.flatten().collect();
                lines.sort_unstable();
                let mut reply = conn.reply();
                reply.array(lines.len());
                lines.iter().for_each(|(_, line)| reply.bulk(line.as_bytes()));
            }
            Question::ClientList(_) => {
                let mut lines: Vec<(ConnId, String)> = Vec::new();
                for answer in answers {
                    if let Answer::Lines(mut some) = answer {
                        lines.append(&mut some);
                    }
                }
                lines.sort_unstable();
                let text: String = lines.into_iter().map(|(_, line)| line + "\n").collect();
                conn.reply().verbatim("txt", &text);
            }
            Question::ClientKill(filter, old_form) => {
                match (sum(&answers), old_form) {
                    (0, true) => conn.error("ERR No such client"),
                    (_, true) => conn.reply().ok(),
                    (killed, false) => conn.reply().int(killed as i64),
                }
                if filter.fits(conn, true) {
                    conn.parked = Some(Parked::Closing);
                }
            }
            Question::Unblock(..) => conn.reply().int(sum(&answers) as i64),
            Question::LoadScript(body) => conn.reply().bulk(sha1_hex(body).as_bytes()),
            Question::FlushScripts
            | Question::Pause(..)
            | Question::Unpause
            | Question::ConfigSet(_)
            | Question::ResetStats => conn.reply().ok(),
        }
    }

    fn client_lines(&self, filter: &ClientFilter, asker: Option<&Conn>) -> Vec<(ConnId, String)> {
        let here = self.clients.values().map(|client| (&client.conn, false));
        here.chain(asker.map(|conn| (conn, true)))
            .filter(|(conn, asks)| filter.fits(conn, *asks))
            .map(|(conn, _)| (conn.id, self.client_line(conn)))
            .collect()
    }

    pub(crate) fn stats_now(&self, asker: Option<&Conn>) -> Stats {
        let mut now = Gauges::default();
        for conn in self.clients.values().map(|client| &client.conn).chain(asker) {
            now.clients += 1;
            now.subscribers += u64::from(conn.subscription_count() > 0);
            now.watching += u64::from(!conn.watched.is_empty());
            now.unsent_bytes += (conn.output.len() + conn.unsent) as u64;
        }
        now.keys = vec![0; self.config.spaces.len()];
        for keyspace in self.db.iter() {
            let spaces = self.db.map().spaces().iter();
            let space = spaces.filter(|s| s.first <= keyspace.shard()).max_by_key(|s| s.first);
            let space = space.expect("every shard is of a space").id as usize;
            now.keys[space] += keyspace.keys();
            now.keys_with_expiry += keyspace.keys_with_expiry() as u64;
            now.memory_bytes += keyspace.memory_bytes() as u64;
            now.shards += 1;
            now.resident_shards += u64::from(keyspace.resident());
            now.flushing_shards += u64::from(keyspace.is_flushing());
            now.dirty_bytes += keyspace.dirty_bytes() as u64;
        }
        for slot in self.shards.iter().flatten() {
            let last = slot.log.last_index();
            let flushed = self.db.get(slot.id).map_or(0, |k| k.durable().applied);
            now.log_entries += last;
            now.log_entries_unflushed += last.saturating_sub(flushed);
        }
        (now.frames_in_flight, now.bytes_in_flight) = self.journal_backlog();
        Stats { now, ..self.stats.clone() }
    }
}

fn sum(answers: &[Answer]) -> u64 {
    let counts = answers.iter().map(|answer| match answer {
        Answer::Count(count) => *count,
        Answer::Stats(_) | Answer::Lines(_) | Answer::Status(_) | Answer::Outside(_) => 0,
    });
    counts.sum()
}
