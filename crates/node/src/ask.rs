//! Questions that every worker answers: INFO, CLIENT LIST, CONFIG SET.

use crate::conn::{Conn, Parked};
use crate::event::{Effect, WorkerId};
use crate::job::{JobId, Origin, State, Work};
use crate::message::{Answer, Message, Question};
use crate::worker::Worker;

/// Nobody waits for this answer; job ids start at 1.
const NO_JOB: JobId = 0;

impl Worker {
    /// Asks all workers, this one first, and lets [`Worker::conclude`] write the reply. Inside
    /// EXEC only this one is waited for, because the next command of the transaction cannot wait.
    pub(crate) fn ask(&mut self, conn: &mut Conn, question: &Question) {
        let own = self.answer(question, Some(conn));
        let this = self.id;
        // What only the outside can see is asked for as if it were one worker more.
        let outside = *question == Question::Status;
        if self.config.workers == 1 && !outside || conn.in_exec {
            if question.changes() {
                self.tell_others(question);
            }
            return self.conclude(conn, question, vec![own]);
        }
        let missing = usize::from(self.config.workers) - 1 + usize::from(outside);
        let mut job =
            self.new_job(Origin::Local(conn.id), conn.proto, Work::Ask(question.clone()), &[]);
        job.state = State::Asking { missing, answers: vec![own] };
        conn.parked = Some(Parked::Job(job.id));
        for worker in (0..self.config.workers).filter(|&w| w != this) {
            self.tell(worker, Message::Ask { job: job.id, question: question.clone() });
        }
        if outside {
            self.effects.push(Effect::Observe { job: job.id });
        }
        self.jobs.insert(job.id, job);
    }

    /// Asks all other workers and waits for no answer.
    pub(crate) fn tell_others(&mut self, question: &Question) {
        let this = self.id;
        for worker in (0..self.config.workers).filter(|&w| w != this) {
            self.tell(worker, Message::Ask { job: NO_JOB, question: question.clone() });
        }
    }

    pub(crate) fn on_ask(&mut self, from: WorkerId, job: JobId, question: &Question) {
        let answer = self.answer(question, None);
        self.tell(from, Message::Answer { job, answer });
    }

    pub(crate) fn on_answer(&mut self, id: JobId, answer: Answer) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let State::Asking { missing, answers } = &mut job.state else { return };
        answers.push(answer);
        *missing -= 1;
        if *missing > 0 {
            return;
        }
        let job = self.jobs.remove(&id).expect("it was just here");
        let (State::Asking { answers, .. }, Work::Ask(question), Origin::Local(conn)) =
            (job.state, job.work, job.origin)
        else {
            return;
        };
        let Some(mut client) = self.clients.remove(&conn) else { return };
        if client.conn.parked == Some(Parked::Job(id)) {
            client.conn.parked = None;
            self.resumed.push(conn);
        }
        self.conclude(&mut client.conn, &question, answers);
        self.put_back(client);
    }
}
