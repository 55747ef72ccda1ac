import { expect, test } from '@jest/globals';
import { LeaseQueues, type LeaseRequest } from '../../src/store/leases.js';
import { within } from '../support/temporary.js';

const NEVER = 600_000;

/** Whether its turn has come, after everything that can happen by itself has happened. */
async function hasCome(turn: LeaseRequest): Promise<boolean> {
  let come = false;
  void turn.ready.then(() => (come = true));
  await new Promise((resolve) => setImmediate(resolve));
  return come;
}

test('one that leaves the line before its turn lets nobody pass those before it', async () => {
  const lines = new LeaseQueues(NEVER);
  const [holder, leaves, next] = [lines.enqueue('a'), lines.enqueue('a'), lines.enqueue('a')];
  holder.markHeld();
  leaves.end();
  expect(await hasCome(next)).toBe(false);
  holder.end();
  await within(next.ready, 'the turn of the next');
});

test('the last of a line that leaves before its turn is no reason to let in those who come later', async () => {
  const lines = new LeaseQueues(NEVER);
  const holder = lines.enqueue('a');
  holder.markHeld();
  lines.enqueue('a').end();
  const later = lines.enqueue('a');
  expect(later.isFirst).toBe(false);
  expect(await hasCome(later)).toBe(false);
  holder.end();
  await within(later.ready, 'the turn of the later one');
});

test('who comes when all are gone is the first', async () => {
  const lines = new LeaseQueues(NEVER);
  const [one, two] = [lines.enqueue('a'), lines.enqueue('a')];
  two.end();
  one.end();
  await two.ready;
  await new Promise((resolve) => setImmediate(resolve));
  expect(lines.enqueue('a').isFirst).toBe(true);
});

test('one that was asked has its grace from when its turn began, not from when it was asked', async () => {
  const lines = new LeaseQueues(0);
  const [holder, next] = [lines.enqueue('a'), lines.enqueue('a')];
  expect(holder.signal.reason).toBe('taken-over');
  expect(await hasCome(next)).toBe(false);
  holder.markHeld();
  await within(next.ready, 'the turn of the next');
});
