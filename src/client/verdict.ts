/** The requests of an upload: RUFH §4.2 creates it, §4.3 asks for its offset, §4.4 appends to it, at last its end. */
export type Step = 'create' | 'ask' | 'append' | 'end';

/**
 * The meaning of a response. `answer`: it ends the upload. `accepted`: the upload goes on, with the fields of the
 * response. `gone`: there is no such upload any more. `too-large`: a smaller append may pass. `retry`: it may work
 * later. `not-resumable`: the server took the request for an ordinary one.
 */
export type Verdict = 'answer' | 'accepted' | 'gone' | 'too-large' | 'retry' | 'not-resumable';

/** Statuses below 500 that pass: a timeout, a lock, an early request, too many requests. */
const PASSING = [408, 423, 425, 429];

/** Interprets a response (RUFH §4). `Upload-Complete: ?1` marks the answer of the origin, whatever its status. */
export function verdictOf(step: Step, { status, headers }: Pick<Response, 'status' | 'headers'>): Verdict {
  const isAsking = step === 'ask';
  const completeness = headers.get('upload-complete')?.slice(0, 2);
  if (completeness === '?1' && !isAsking) return 'answer';
  if (status < 400) {
    if (step === 'create') return completeness && headers.has('location') ? 'accepted' : 'not-resumable';
    // A response without these fields comes from a hop, such as the login page of a network.
    const isAccepted = isAsking || (step === 'append' && completeness);
    return isAccepted && headers.has('upload-offset') ? 'accepted' : 'retry';
  }
  if (step === 'create') return isPassing(status) ? 'retry' : 'answer';
  if (status === 404 || status === 410) return 'gone';
  if (status === 409 && headers.has('upload-offset')) return 'retry';
  if (status === 413 && !isAsking) return 'too-large';
  return isPassing(status) ? 'retry' : 'answer';
}

function isPassing(status: number): boolean {
  return PASSING.includes(status) || (status >= 500 && status !== 501);
}
