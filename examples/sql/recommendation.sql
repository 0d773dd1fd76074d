-- Which lecturers will a student like? 73,421 ratings from 1 (poor) to 5 (very good) that students of ETH Zurich gave (InstEval
-- of the R package lme4, GPL). Students and lecturers become learned vectors; the network is compared with the simplest
-- recommender, the mean and what each lecturer and student adds to it, on ratings that neither has seen.
--
--     scripts/fetch-data.sh insteval
--     cd ~/.cache/firesteel/data/insteval && firesteel sql -f …/examples/sql/recommendation.sql

CREATE EXTERNAL TABLE insteval STORED AS CSV LOCATION 'insteval.csv' OPTIONS ('format.has_header' 'true');

-- Numbers that are names are cast to strings, so that each gets a vector. A student rates a lecturer once, and so both give
-- a rating its part of ten. With rows in order a run gives what the last one gave.
CREATE TABLE ratings AS
SELECT CAST(student AS VARCHAR) AS student, CAST(lecturer AS VARCHAR) AS lecturer, CAST(dept AS VARCHAR) AS dept,
  studage, lectage, service, CAST(rating AS DOUBLE) AS rating, (student * 7919 + lecturer * 104729) % 10007 % 10 AS part
FROM insteval ORDER BY student, lecturer;
CREATE VIEW train AS SELECT * FROM ratings WHERE part < 9;
CREATE VIEW test AS SELECT * FROM ratings WHERE part = 9;

-- Offsets are pulled to zero as if there were some more ratings without any; how many was chosen within the training rows, as
-- were the sizes of the network and its three epochs.
CREATE TABLE lecturers AS
SELECT lecturer, sum(rating - mean) / (count(*) + 5) AS likes, count(*) AS ratings, avg(rating) AS mean_rating
FROM train CROSS JOIN (SELECT avg(rating) AS mean FROM train) GROUP BY lecturer;
CREATE TABLE students AS
SELECT student, sum(rating - mean - likes) / (count(*) + 12) AS mood
FROM train JOIN lecturers USING (lecturer) CROSS JOIN (SELECT avg(rating) AS mean FROM train) GROUP BY student;

CREATE OR REPLACE MODEL taste OPTIONS (
  model_type = 'dnn_regressor', input_label_cols = ['rating'], embedding_dims = 64, hidden_units = [256], dropout = 0.7,
  learn_rate = 0.002, batch_size = 512, max_iterations = 3, data_split_method = 'no_split', seed = 1
) AS SELECT * EXCLUDE (part) FROM train;

-- Root mean squared errors on the rows held out. Taste is mostly chance: the offsets know nearly all that can be known, and the
-- network a little more.
CREATE TABLE compared AS
SELECT rating, mean, mean + coalesce(likes, 0) + coalesce(mood, 0) AS biases, predicted_rating AS network
FROM ML.PREDICT(MODEL taste, TABLE test) CROSS JOIN (SELECT avg(rating) AS mean FROM train)
LEFT JOIN lecturers USING (lecturer) LEFT JOIN students USING (student);
SELECT count(*) AS ratings, round(sqrt(avg(power(rating - mean, 2))), 4) AS mean_only,
  round(sqrt(avg(power(rating - biases, 2))), 4) AS biases_only, round(sqrt(avg(power(rating - network, 2))), 4) AS network
FROM compared;

-- What the network expects most of, in five parts: how good was it?
WITH parts AS (SELECT *, ntile(5) OVER (ORDER BY network DESC) AS part FROM compared)
SELECT part, count(*) AS ratings, round(avg(network), 2) AS predicted, round(avg(rating), 2) AS rated
FROM parts GROUP BY part ORDER BY part;

-- Ten lecturers for student 7, of those with 20 ratings or more that the student has not rated yet, in the department where
-- each lectures most. A number may go beyond 5: the order counts.
CREATE VIEW lectures AS
SELECT DISTINCT ON (lecturer) lecturer, dept, service
FROM ratings GROUP BY lecturer, dept, service ORDER BY lecturer, count(*) DESC, dept, service;
CREATE VIEW candidates AS
SELECT s.student, s.studage, l.lecturer, l.dept, l.service, 1 AS lectage
FROM (SELECT student, max(studage) AS studage FROM ratings WHERE student = '7' GROUP BY student) s CROSS JOIN lectures l
LEFT ANTI JOIN ratings r ON r.student = s.student AND r.lecturer = l.lecturer;
SELECT lecturer, dept, round(predicted_rating, 2) AS predicted, round(mean_rating, 2) AS mean_rating, ratings
FROM ML.PREDICT(MODEL taste, TABLE candidates) JOIN lecturers USING (lecturer)
WHERE ratings >= 20 ORDER BY predicted_rating DESC LIMIT 10;
