// The list of rollouts: told anew when one begins, takes a step or ends.

import { renew } from "./figures.js";

let before;

export async function update(sample) {
  const found = sample.rollouts?.rollouts;
  if (!found) return;
  const now = JSON.stringify(found.map(({ rollout, sequence }) => [rollout, sequence]));
  if (before !== undefined && now !== before) await renew("#main");
  before = now;
}
