-- Which hours of New York's weather of 2013 cannot be right, and what is wrong with them? An autoencoder learns how the
-- measurements go together, of all hours and without being told which are wrong; an hour that it cannot give back is odd,
-- and the measurement that it misses most is the reason.
--
--     firesteel sql -f examples/sql/anomaly.sql        in the folder of the CSV files that `scripts/fetch-data.sh` gets

CREATE EXTERNAL TABLE weather STORED AS CSV LOCATION 'weather.csv'
  OPTIONS ('format.has_header' 'true', 'format.schema_infer_max_rec' '400000');

-- A column with NA among its numbers is text. A direction is a point on the circle: 350° is near 10°.
CREATE TABLE hours AS SELECT origin, make_date(year, month, day) AS day, hour,
  TRY_CAST(temp AS DOUBLE) AS temp, TRY_CAST(dewp AS DOUBLE) AS dewp, TRY_CAST(humid AS DOUBLE) AS humid,
  TRY_CAST(wind_speed AS DOUBLE) AS wind_speed, sin(radians(TRY_CAST(wind_dir AS DOUBLE))) AS wind_east,
  cos(radians(TRY_CAST(wind_dir AS DOUBLE))) AS wind_north, TRY_CAST(visib AS DOUBLE) AS visib, TRY_CAST(precip AS DOUBLE) AS precip
FROM weather ORDER BY origin, day, hour;

-- Four numbers must do for nine: the network has to learn that damp air is air near its dew point, and the like. Where an hour
-- comes from and when it was are kept beside, and not learned.
CREATE OR REPLACE MODEL weather OPTIONS (
  model_type = 'autoencoder', hidden_units = [32, 4, 32], activation_fn = 'tanh', exclude_cols = ['origin', 'day', 'hour'],
  learn_rate = 0.003, batch_size = 128, max_iterations = 15, data_split_method = 'random', seed = 1
) AS SELECT * FROM hours;

-- A wind of 1,048 miles an hour was a slip of the instrument. What follows are cloudbursts, and rain in dry air at 17 °F.
SELECT origin, day, hour, round(reconstruction_loss, 2) AS loss, f[1]['feature'] AS because, temp, dewp, humid, round(wind_speed, 0) AS wind, visib, precip
FROM (SELECT *, top_feature_losses AS f FROM ML.RECONSTRUCTION_LOSS(MODEL weather, TABLE hours, top_k_features => 1))
ORDER BY reconstruction_loss DESC LIMIT 12;

-- How odd is odd? What most hours lose, and how many lose ten times the median.
SELECT round(approx_percentile_cont(reconstruction_loss, 0.5), 4) AS median, round(approx_percentile_cont(reconstruction_loss, 0.99), 4) AS "99 %",
  round(max(reconstruction_loss), 1) AS most
FROM ML.RECONSTRUCTION_LOSS(MODEL weather, TABLE hours);

-- The four numbers of each hour place it among all others. Which hours were most like the worst of the snow of 8 March?
WITH places AS (SELECT origin, day, hour, temp, wind_speed, precip, visib, embedding AS e FROM ML.EMBED(MODEL weather, TABLE hours)),
storm AS (SELECT e AS s FROM places WHERE origin = 'JFK' AND day = DATE '2013-03-08' AND hour = 6)
SELECT origin, day, hour, temp, round(wind_speed, 0) AS wind, precip, visib, round(array_distance(e, s), 3) AS distance
FROM places, storm ORDER BY distance LIMIT 6;
