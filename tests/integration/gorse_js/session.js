// A session of Gorse's official JavaScript client: prints what it was answered, as JSON.
// node session.js ENDPOINT KEY PERSON ITEM
import { Gorse } from "gorsejs";

const [endpoint, secret, person, vase] = process.argv.slice(2);
const client = new Gorse({ endpoint, secret });

async function until(ask, holds) {
  const end = Date.now() + 30_000;
  for (;;) {
    const found = await ask();
    if (holds(found) || Date.now() > end) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

const refused = (asked) => asked.then(() => null, ({ code, message }) => ({ code, message }));
const item = {
  ItemId: vase,
  IsHidden: false,
  Categories: ["c1"],
  Labels: ["new"],
  Timestamp: new Date("2022-02-24T10:00:00.250Z"),
  Comment: "A vase of clay",
};
const told = (FeedbackType, ItemId) => ({
  FeedbackType,
  UserId: person,
  ItemId,
  Timestamp: new Date("2022-02-24T10:00:00Z"),
});

const answers = {
  user: await client.insertUser({ UserId: person }),
  users: await client.insertUsers([{ UserId: person }, { UserId: "ann" }]),
  upserted: await client.upsertItem(item),
  inserted: await client.insertFeedbacks([told("read", "i1"), told("star", "i2")]),
  again: await client.upsertFeedbacks([told("read", "i1")]),
  feedback: await until(
    () => client.getUserFeedback(person),
    (found) => found.length === 2,
  ),
  one: await client.getFeedback({ type: "read", userId: person, itemId: "i1" }),
  recommended: await client.getRecommend({ userId: person, cursorOptions: { n: 6 } }),
  page: await client.getRecommend({ userId: person, cursorOptions: { n: 3, offset: 3 } }),
  category: await client.getRecommend({ userId: person, category: "c2", cursorOptions: { n: 5 } }),
  session: await client.getSessionRecommend([told("read", "i1")], { cursorOptions: { n: 3 } }),
  neighbors: await client.getItemNeighbors({ itemId: "i1", cursorOptions: { n: 3 } }),
  popular: await until(
    () => client.getPopular({ cursorOptions: { n: 2 } }),
    (found) => found.length === 2,
  ),
  item: await until(
    () => client.getItem(vase).catch(() => null),
    (found) => found !== null,
  ),
  categorised: await client.insertItemCategory(vase, "vases"),
  categories: await until(
    () => client.getItem(vase),
    (found) => found.Categories.length === 2,
  ),
  deleted: await client.deleteItem(vase),
  latest: await refused(client.getLatest({})),
  listed: await refused(client.getItems()),
  misnamed: await refused(client.insertFeedbacks([told("smell", "i1")])),
};
console.log(JSON.stringify(answers));
