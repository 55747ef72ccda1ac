import { fieldValue, type Headers } from '../model/headers.js';
import { idempotencyKeyOf, type Answer, type Attempt, type Undelivered, type Upload } from '../model/upload.js';
import { withoutQueryValues } from '../observe/log-lines.js';
import { uploadTag } from '../observe/log.js';
import type { UnknownUploads } from '../uploads/unknown-bytes.js';
import type { SetAside } from '../store/upload-store.js';

/** An upload in a list: never its id, which is the right to write to it (RUFH §11), nor a value its client sent. */
export function summaryOf(upload: Upload) {
  const { request, attempts, answer, undelivered, dueAt } = upload;
  const newest = attempts.at(-1);
  return {
    tag: uploadTag(upload.id),
    phase: upload.phase,
    route: upload.route,
    dialect: upload.dialect,
    method: request.method,
    target: withoutQueryValues(request.target),
    offset: upload.offset,
    ...(upload.length === undefined ? {} : { length: upload.length }),
    attempts: upload.attemptCount,
    ...(newest ? { newestAttempt: attemptView(newest) } : {}),
    ...(answer ? { status: answer.status } : {}),
    ...(undelivered ? { undelivered: undeliveredView(undelivered) } : {}),
    ...(dueAt === undefined ? {} : { dueAt: iso(dueAt) }),
    createdAt: iso(upload.createdAt),
    expiresAt: iso(upload.expiresAt),
  };
}

/** An upload that cannot be shown, because its record cannot be read. */
export function setAsideView({ id, state, reason, since }: SetAside) {
  return { tag: uploadTag(id), phase: state, problem: reason, since: iso(since) };
}

/** Uploads that a lost store has left in the spool. */
export function unknownView(unknown: UnknownUploads) {
  const { uploads, bytes, since } = unknown;
  return { uploads, bytes, since: iso(since), problem: unknownProblem(unknown) };
}

export function unknownProblem({ uploads, bytes, since, lack }: UnknownUploads): string {
  if (lack === 'records')
    return (
      `the spool has ${uploads} uploads (${bytes} bytes) whose records were not in uploads at the start of ${iso(since)}. ` +
      'They are removed when the longest limits.max_age is over. If the data directory is a copy, stop, copy the whole ' +
      'directory and start again'
    );
  return (
    `the spool has ${uploads} uploads (${bytes} bytes) of another Redis, from before ${iso(since)}; this one does not know ` +
    'them. They are removed when the longest limits.max_age is over. If this is the wrong Redis, database or store.prefix, ' +
    'correct it; if it was emptied, restore its backup'
  );
}

/** Everything an operator may know of one upload. Of header fields the names, of credentials nothing more. */
export function detailOf(upload: Upload) {
  const { request, answer } = upload;
  return {
    ...summaryOf(upload),
    limits: upload.limits,
    digests: upload.reprDigests,
    bound: upload.principal !== undefined,
    idempotencyKey: idempotencyKeyOf(upload),
    request: {
      scheme: request.scheme,
      authority: request.authority,
      httpVersion: request.httpVersion,
      client: request.clientAddress,
      contentType: fieldValue(request.headers, 'content-type'),
      headerNames: namesOf(request.headers),
    },
    newestAttempts: upload.attempts.map(attemptView),
    ...(answer ? { answer: answerView(answer) } : {}),
  };
}

function attemptView({ number, origin, startedAt, endedAt, reached, status, problem }: Attempt) {
  return {
    number,
    origin,
    startedAt: iso(startedAt),
    ...(endedAt === undefined ? {} : { endedAt: iso(endedAt) }),
    reached,
    status,
    problem,
  };
}

function undeliveredView({ reason, status, problem }: Undelivered) {
  return { reason, status, problem };
}

function answerView({ status, reason, headers, bodySize, at }: Answer) {
  return { status, reason, headerNames: namesOf(headers), bodySize, at: iso(at) };
}

function namesOf(headers: Headers): string[] {
  return [...new Set(headers.map(([name]) => name))];
}

function iso(at: number): string {
  return new Date(at).toISOString();
}
