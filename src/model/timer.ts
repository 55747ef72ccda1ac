/** Longest delay of a Node timer, in milliseconds; a longer one would fire immediately. */
export const MAX_TIMER_MS = 2 ** 31 - 1;
