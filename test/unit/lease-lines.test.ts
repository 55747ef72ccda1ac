import { expect, test } from '@jest/globals';
import { LeaseQueues, type LeaseRequest } from '../../src/store/leases.js';
import { within } from '../support/temporary.js';

const NEVER = 600_000;

/** Whether its turn has come, after everything that can happen by itself has happened. */
async function hasCome(turn: LeaseRequest): Promise<boolean> {
  let come = false;
  void turn.comes.then(() => (come = true));
  await new Promise((resolve) => setImmediate(resolve));
  return come;
}

test('one that leaves the line before its turn lets nobody pass those before it', async () => {
  const lines = new LeaseQueues(NEVER);
  const [holder, leaves, next] = [lines.enter('a'), lines.enter('a'), lines.enter('a')];
  holder.begin();
  leaves.end();
  expect(await hasCome(next)).toBe(false);
  holder.end();
  await within(next.comes, 'the turn of the next');
});

test('the last of a line that leaves before its turn is no reason to let in those who come later', async () => {
  const lines = new LeaseQueues(NEVER);
  const holder = lines.enter('a');
  holder.begin();
  lines.enter('a').end();
  const later = lines.enter('a');
  expect(later.isFirst).toBe(false);
  expect(await hasCome(later)).toBe(false);
  holder.end();
  await within(later.comes, 'the turn of the later one');
});

test('who comes when all are gone is the first', async () => {
  const lines = new LeaseQueues(NEVER);
  const [one, two] = [lines.enter('a'), lines.enter('a')];
  two.end();
  one.end();
  await two.comes;
  await new Promise((resolve) => setImmediate(resolve));
  expect(lines.enter('a').isFirst).toBe(true);
});

test('one that was asked has its grace from when its turn began, not from when it was asked', async () => {
  const lines = new LeaseQueues(0);
  const [holder, next] = [lines.enter('a'), lines.enter('a')];
  expect(holder.signal.reason).toBe('taken-over');
  expect(await hasCome(next)).toBe(false);
  holder.begin();
  await within(next.comes, 'the turn of the next');
});
