// The forecast of an item: as on the page of demand.
import "./forecast.js";
